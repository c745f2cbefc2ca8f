"""The tasks of running text, in which every token is trained: items, histories, and the documents
of a general corpus."""

from collections.abc import Iterator

import numpy as np

from sidtool.data.general_text import pieces
from sidtool.examples.task import Copies, ExampleContext, TrainingExample
from sidtool.model.prompt.segments import Segment, catalog, template


def item_text_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Active items of the catalog that have a title."""
    items = context.bundle.items
    for index in np.flatnonzero(~items.retired).tolist():
        if not context.texts.text("title", index):
            continue
        for copy in range(copies()):
            text, _ = context.running_text(context.frame(copy, index), [index])
            yield TrainingExample(context.name, (), text, item=items.ids[index])


def history_text_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Whole histories, each cut into pieces of `history_length` + 1 items."""
    # as many items as a prompt and its answer have
    size = context.history_length + 1
    for number, sequence in enumerate(context.split.train, start=context.first_number):
        history = context.histories.of_user(sequence)
        for start in range(0, len(history), size):
            piece = history.cut(start, start + size)
            for copy in range(copies()):
                text, n_items = context.running_text(context.frame(copy, number), piece.indexes)
                yield TrainingExample(context.name, (), text, piece.newest(n_items).events)


def document_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """The documents of a general corpus, in pieces if they are longer than `max_length`."""
    encoder = context.encoder
    assert encoder is not None
    frame = context.frames[0]

    def completion(text: str) -> tuple[Segment, ...]:
        segments = (template(frame.before), catalog(text), template(frame.close))
        return tuple(segment for segment in segments if segment.text)

    def fits(text: str) -> bool:
        return encoder.length(completion(text)) <= context.max_length

    for document in context.documents:
        for piece in pieces(document, fits):
            for _ in range(copies()):
                yield TrainingExample(context.name, (), completion(piece))
