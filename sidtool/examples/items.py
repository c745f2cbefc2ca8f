"""The tasks of the catalog: SID and text of an item, and the queries that describe one; and running
text, in which every token is trained: items, histories, and the documents of a general corpus."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sidtool.data import Query
from sidtool.data.split import Event
from sidtool.examples.general_text import pieces
from sidtool.examples.task import Copies, ExampleContext, TrainingExample
from sidtool.model.prompt import Segment, catalog, item_text, template


def item_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Active items of the catalog: one of SID and text given the other."""
    items = context.bundle.items
    for index in np.flatnonzero(~items.retired).tolist():
        # templates and the length of a prefix vary by copy, whether there is text does not
        has_source = bool(_source(context, index, 0))
        has_target = bool(context.completion(index, context.frames[0]))
        if not (has_source and has_target):
            continue
        for copy in range(copies()):
            frame = context.frame(copy, index)
            completion = context.completion(index, frame)
            content = _source(context, index, copy + index)
            prompt, _ = context.prompt(frame, [content], completion)
            yield TrainingExample(context.name, prompt, completion, item=items.ids[index])


def _source(context: ExampleContext, index: int, number: int) -> list[Segment]:
    """What the prompt shows of an item, empty if it has no such text; `number` varies the length of
    a prefix."""
    if context.task.source == "sid":
        return [context.sids([index])]
    if context.task.source == "prefix":
        space = context.bundle.space
        n_codes = 1 + number % (space.levels - 1)
        n_tokens = space.has_begin_end_tokens + n_codes
        return [Segment("sid", sid_tokens=context.sids([index]).sid_tokens[:n_tokens])]
    text = context.text(index)
    return [catalog(text)] if text else []


@dataclass(frozen=True)
class TrainingQuery:
    """A query that may be trained on: its number, the index of its item, and the event it belongs
    to, if it has a user."""

    number: int
    query: Query
    index: int
    events: tuple[Event, ...]


def training_queries(context: ExampleContext) -> list[TrainingQuery]:
    """The queries for active items whose text is shown; those of a user only for items of the
    user's training events that are not held out again, since a query does not say which event it
    is."""
    user_items = {(query.user, query.item) for query in context.queries if query.user is not None}
    split = context.split
    for example in (*split.valid, *split.test) if user_items else ():
        user_items.difference_update((example.user, item) for item in example.items)
    positions = {
        (sequence.user, item): position
        for sequence in (context.split.train if user_items else ())
        for item, position in zip(sequence.items, sequence.positions, strict=True)
        if (sequence.user, item) in user_items
    }
    usable: list[TrainingQuery] = []
    rows = context.bundle.items.rows([query.item for query in context.queries]).tolist()
    for number, (query, index) in enumerate(zip(context.queries, rows, strict=True)):
        events: tuple[Event, ...] = ()
        if query.user is not None:
            position = positions.get((query.user, query.item))
            if position is None:
                continue
            events = ((query.user, query.item, position),)
        if index < 0 or context.bundle.items.retired[index] or context.texts.hidden[index]:
            continue
        usable.append(TrainingQuery(number, query, index, events))
    return usable


def query_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Queries, and the SIDs of the items that they describe."""
    for entry in training_queries(context):
        for copy in range(copies()):
            frame = context.frame(copy, entry.number)
            completion = context.completion(entry.index, frame)
            content = catalog(item_text(entry.query.text))
            prompt, _ = context.prompt(frame, [[content]], completion)
            yield TrainingExample(context.name, prompt, completion, entry.events, entry.query.item)


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
    frame = context.frames[0]

    def completion(text: str) -> tuple[Segment, ...]:
        segments = (template(frame.before), catalog(text), template(frame.close))
        return tuple(segment for segment in segments if segment.text)

    def fits(text: str) -> bool:
        return context.length(completion(text)) <= context.max_length

    for document in context.documents:
        for piece in pieces(document, fits):
            for _ in range(copies()):
                yield TrainingExample(context.name, (), completion(piece))
