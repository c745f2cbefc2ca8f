"""The kinds of training examples, one function for each: whole histories, events, items, queries
and running text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sidtool.data.fields.fields import NO_FIELDS
from sidtool.data.queries import Query
from sidtool.data.split.split import Event, Split
from sidtool.examples.example_context import ExampleContext, TrainingExample
from sidtool.examples.field_examples import sequence_with_fields
from sidtool.examples.histories import sequence_windows
from sidtool.examples.task_mix import Copies
from sidtool.model.prompt.assemble import TextItems
from sidtool.model.prompt.segments import Segment, catalog, shorten, sids, template


def sequence_examples(
    context: ExampleContext, split: Split, copies: Copies
) -> Iterator[TrainingExample]:
    """Whole histories as SIDs, in overlapping windows: every item is a target once."""
    frame = context.frames[0]
    before = template(frame.before)
    # Windows need no measuring: ExampleMaker has checked that the longest one fits.
    for sequence in split.train:
        history = context.histories.of_user(sequence)
        for start, target, stop in sequence_windows(len(history), context.history_length):
            window = history.cut(start, stop)
            codes = context.item_map.codes[window.indexes]
            n_context = target - start  # items that are targets of an earlier window
            earlier = sids(context.space, codes[:n_context])
            targets = sids(context.space, codes[n_context:])
            prompt: tuple[Segment, ...] = (before, earlier) if n_context else ()
            completion: tuple[Segment, ...] = (targets,) if prompt else (before, targets)
            if frame.has_slots:
                prompt, completion = sequence_with_fields(context, window, n_context)
            for _ in range(copies()):
                yield TrainingExample(context.name, prompt, completion, window.events)


def event_examples(
    context: ExampleContext, split: Split, copies: Copies
) -> Iterator[TrainingExample]:
    """Training events: the history before an event, and its item."""
    has_slots = any(frame.has_slots for frame in context.frames)
    histories = context.histories.with_target(split)
    for number, history in enumerate(histories, start=context.first_number):
        *earlier, target = history.indexes
        if not context.completion(target, context.frames[0]):
            continue
        fields = NO_FIELDS
        if has_slots:
            fields = history.known_before_last(tuple(context.types.context))
        if context.task.feedback:
            label = history.last_value(context.task.feedback)
            if label is None:
                continue
            fields = replace(fields, feedback={context.task.feedback: label})
        for copy in range(copies()):
            frame = context.frame(copy, number)
            completion = context.completion(target, frame)
            content = context.items.history(context.task.source, earlier, frame, fields)
            prompt, n_items = context.prompted(frame, content, completion, fields)
            events = history.newest(n_items + 1).events
            yield TrainingExample(context.name, prompt, completion, events, history.item_ids[-1])


def history_text_examples(
    context: ExampleContext, split: Split, copies: Copies
) -> Iterator[TrainingExample]:
    """Whole histories as running text, each cut into pieces of `history_length` + 1 items."""
    # as many items as a prompt and its answer have
    size = context.history_length + 1
    for number, sequence in enumerate(split.train, start=context.first_number):
        history = context.histories.of_user(sequence)
        for start in range(0, len(history), size):
            piece = history.cut(start, start + size)
            for copy in range(copies()):
                frame = context.frame(copy, number)
                text, n_items = context.running_text(frame, piece.indexes)
                yield TrainingExample(context.name, (), text, piece.newest(n_items).events)


def item_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Active items of the catalog: one of SID and text given the other."""
    for index in np.flatnonzero(~context.item_map.retired).tolist():
        # templates and the length of a prefix vary by copy, whether there is text does not
        has_source = bool(_item_content(context, index, 0))
        has_target = bool(context.completion(index, context.frames[0]))
        if not (has_source and has_target):
            continue
        for copy in range(copies()):
            frame = context.frame(copy, index)
            completion = context.completion(index, frame)
            content = TextItems([_item_content(context, index, copy + index)])
            prompt, _ = context.prompted(frame, content, completion)
            yield TrainingExample(
                context.name, prompt, completion, item=context.item_map.ids[index]
            )


def _item_content(context: ExampleContext, index: int, number: int) -> list[Segment]:
    """The source of an item, empty if it has no such text; `number` varies the length of a
    prefix."""
    if context.task.source == "sid":
        return [context.items.sid(index)]
    if context.task.source == "prefix":
        n_codes = 1 + number % (context.space.levels - 1)
        return [context.items.sid_prefix(index, n_codes)]
    text = context.items.text(context.task.column or "title", index)
    return [catalog(text)] if text else []


def item_text_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Active items of the catalog that have a title, as running text."""
    for index in np.flatnonzero(~context.item_map.retired).tolist():
        if not context.items.text("title", index):
            continue
        for copy in range(copies()):
            text, _ = context.running_text(context.frame(copy, index), [index])
            yield TrainingExample(context.name, (), text, item=context.item_map.ids[index])


@dataclass(frozen=True)
class TrainingQuery:
    """A query that may be trained on: its number, the index of its item, and the event it belongs
    to, if it has a user."""

    number: int
    query: Query
    index: int
    events: tuple[Event, ...]


def training_queries(
    queries: Sequence[Query], split: Split, item_index: Mapping[str, int]
) -> list[TrainingQuery]:
    """The queries for items in `item_index`; those of a user only for items of the user's training
    events that are not held out again, since a query does not say which event it is."""
    of_users = {(query.user, query.item) for query in queries if query.user is not None}
    for example in (*split.valid, *split.test) if of_users else ():
        of_users.difference_update((example.user, item) for item in example.items)
    positions = {
        (user.user, item): position
        for user in (split.train if of_users else ())
        for item, position in zip(user.items, user.positions, strict=True)
        if (user.user, item) in of_users
    }
    usable: list[TrainingQuery] = []
    for number, query in enumerate(queries):
        events: tuple[Event, ...] = ()
        if query.user is not None:
            position = positions.get((query.user, query.item))
            if position is None:
                continue
            events = ((query.user, query.item, position),)
        if query.item in item_index:
            usable.append(TrainingQuery(number, query, item_index[query.item], events))
    return usable


def query_examples(
    context: ExampleContext, queries: Sequence[TrainingQuery], copies: Copies
) -> Iterator[TrainingExample]:
    """Queries, and the SIDs of the items that they describe."""
    for entry in queries:
        for copy in range(copies()):
            frame = context.frame(copy, entry.number)
            completion = context.completion(entry.index, frame)
            content = TextItems([[catalog(shorten(entry.query.text))]])
            prompt, _ = context.prompted(frame, content, completion)
            yield TrainingExample(context.name, prompt, completion, entry.events, entry.query.item)
