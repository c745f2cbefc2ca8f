"""The examples of users without fields, as the functions of `user_tasks` make them, but as lines of
a file and many at once: next items of histories, and sequences."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sidtool.base.ranges import bounds_of, consecutive
from sidtool.examples.blocks import (
    BlockCopies,
    EventBlock,
    ExampleBlock,
    MakeBlock,
    Numbers,
    TrainEvents,
    catalog_spans,
    escaped,
    escaped_strings,
    joined,
    joined_lists,
    line_bytes,
    strings,
    taken,
)
from sidtool.examples.histories import Windows, sequence_windows
from sidtool.examples.task import ExampleContext
from sidtool.model.prompt import catalog, template


class ShownItems(NamedTuple):
    """What is shown of each item that users have."""

    texts: Any
    """(items,) as they stand within a JSON string"""
    tokens: Numbers
    """(items,)"""
    characters: Numbers
    """(items,) of catalog text, 0 for a SID"""


class EventLines:
    """Makes the lines of a task."""

    def __init__(self, context: ExampleContext, events: TrainEvents) -> None:
        self._context = context
        self._users = escaped_strings(events.user_ids)
        self._head = f'{{"task": "{context.name}", "user": "'
        frames, space = context.frames, context.bundle.space
        ending_text = (space.begin or "") if context.ending else ""
        # the literal text behind the user, behind the history and behind the answer
        before = escaped(frame.before for frame in frames)
        after = escaped(frame.after + ending_text for frame in frames)
        close = escaped(frame.close for frame in frames)
        self._before = strings(f'", "prompt": "{text}' for text in before)
        self._after = strings(f'{text}", "completion": "' for text in after)
        self._close = strings(f'{text}"' for text in close)
        self._before_characters = np.array([len(frame.before) for frame in frames])
        literals = [map(template, (frame.before, frame.after, frame.close)) for frame in frames]
        n_tokens = [context.length([*segments, *context.ending]) for segments in literals]
        self._frame_tokens = np.array(n_tokens)  # (frames,) of an example without its items
        task, rows = context.task, events.used_rows
        separator = context.frames[0].separator
        self._separator = separator if task.history_source == "title" else ""
        self._separator_tokens = context.length([template(self._separator)])
        self._items = self._sids(rows)
        if task.history_source == "title":
            self._items = self._titles(rows, "title")
        self._answers = self._sids(rows, begin_token=False)
        if task.target != "sid":
            self._answers = self._titles(rows, task.column or "title")

    def _sids(self, rows: Numbers, *, begin_token: bool = True) -> ShownItems:
        """SIDs; without the begin token as answers, since the prompt ends with it."""
        texts, n_tokens = self._context.sid_texts(rows, begin_token=begin_token)
        tokens = np.full(len(rows), 0 if self._context.encoder is None else n_tokens)
        return ShownItems(escaped_strings(texts), tokens, np.zeros_like(rows))

    def _titles(self, rows: Numbers, column: str) -> ShownItems:
        """A column of the catalog."""
        texts = [self._context.texts.text(column, row) for row in rows.tolist()]
        tokens = np.array([self._context.length([catalog(text)]) for text in texts], dtype=np.int64)
        characters = np.array([len(text) for text in texts], dtype=np.int64)
        return ShownItems(strings(escaped(texts)), tokens, characters)

    def answers(self, events: EventBlock) -> tuple[Numbers, Numbers]:
        """The events of a block that are answers: (answers,) their indexes, and the number of each
        among the block's events with a history."""
        first_events = np.repeat(events.starts[:-1], events.sizes)  # (events,) of the same user
        targets = np.flatnonzero(first_events < np.arange(len(first_events)))
        numbers = np.arange(len(targets))
        if self._context.task.target == "sid":
            return targets, numbers
        has_text = self._answers.characters[events.items[targets]] > 0
        return targets[has_text], numbers[has_text]

    def block(
        self, events: EventBlock, answers: Numbers, numbers: Numbers, n_copies: Numbers
    ) -> ExampleBlock:
        """The examples of a block: (answers,) the events, as `answers` has them, their numbers, and
        how many copies there are of each."""
        targets = np.repeat(answers, n_copies)  # (examples,) events
        # the copies of an answer have the frames in turn; the first one follows from its number
        turns = consecutive(np.zeros_like(n_copies), n_copies)
        if not self._context.same_frame:
            turns += np.repeat(numbers, n_copies)
        frames = turns % len(self._context.frames)
        # (events + 1,): the tokens of the items before each event, with a separator behind each
        item_tokens = self._items.tokens[events.items] + self._separator_tokens
        tokens_before = bounds_of(item_tokens)
        # the tokens of each example without its history
        fixed = self._frame_tokens[frames] + self._answers.tokens[events.items[targets]]
        first_events = np.repeat(events.starts[:-1], events.sizes)  # (events,) of the same user
        starts = np.maximum(first_events[targets], targets - self._context.history_length)
        if self._context.encoder is not None:
            # no separator is behind the last item
            room = self._context.max_length - fixed + self._separator_tokens
            first_that_fits = np.searchsorted(tokens_before, tokens_before[targets] - room)
            starts = np.maximum(starts, first_that_fits)
        if (starts >= targets).any():
            raise self._context.too_long()
        history_tokens = tokens_before[targets] - tokens_before[starts] - self._separator_tokens
        lengths = fixed + history_tokens
        lines = self._lines(events, starts, targets, frames)
        return ExampleBlock(lines, lengths, events.count_held_out(starts, targets + 1))

    def _lines(self, events: EventBlock, starts: Numbers, targets: Numbers, frames: Numbers) -> Any:
        """The lines of examples, by (examples,) the first event of each history, the event of the
        answer, right behind the last one of the history, and the number of the frame."""
        sizes = targets - starts
        indexes = consecutive(starts, sizes)
        users = np.repeat(events.users, events.sizes)[targets]
        answers = events.items[targets]
        # the spans of titles in prompts
        characters = self._items.characters[events.items]
        before = bounds_of(characters + len(self._separator))
        first = self._before_characters[frames] - before[starts]
        has_title = characters[indexes] > 0
        owners = np.repeat(np.arange(len(first)), sizes)[has_title]
        titles = indexes[has_title]
        title_starts = first[owners] + before[titles]
        title_stops = title_starts + characters[titles]
        n_titles = np.bincount(owners, minlength=len(first))
        answer_characters = self._answers.characters[answers]
        [separator] = escaped([self._separator])
        lines = joined(
            self._head,
            taken(self._users, users),
            taken(self._before, frames),
            joined_lists(taken(self._items.texts, events.items[indexes]), sizes, separator),
            taken(self._after, frames),
            taken(self._answers.texts, answers),
            taken(self._close, frames),
            catalog_spans(n_titles, title_starts, title_stops, answer_characters),
            "}\n",
        )
        return line_bytes(lines)


def event_blocks(
    context: ExampleContext, events: TrainEvents, users: range, copies: BlockCopies
) -> Iterator[MakeBlock]:
    """What makes the examples of `event_examples` without fields, block by block."""
    lines = EventLines(context, events)
    first_number = context.first_number
    for block in events.blocks(users, context.history_length + 1):
        answers, numbers = lines.answers(block)
        n_copies = copies(len(answers))
        yield partial(lines.block, block, answers, first_number + numbers, n_copies)
        n_with_history = np.maximum(block.sizes - 1, 0)  # (users,) events of each
        first_number += int(n_with_history.sum())


class _SequenceLines:
    """The lines of sequences."""

    def __init__(self, context: ExampleContext, events: TrainEvents) -> None:
        before = template(context.frames[0].before)
        self._n_before = context.length([before])
        [text] = escaped([before.text])
        sid_texts, n_tokens = context.sid_texts(events.used_rows)
        self._sids = escaped_strings(sid_texts)
        self._tokens_of_item = 0 if context.encoder is None else n_tokens
        self._users = escaped_strings(events.user_ids)
        self._head = f'{{"task": "{context.name}", "user": "'
        # without and with a prompt
        self._opening = strings([f'", "text": "{text}', f'", "prompt": "{text}'])
        self._completion = strings(["", '", "completion": "'])

    def block(self, events: EventBlock, windows: Windows) -> ExampleBlock:
        """The examples of windows of the users of a block."""
        first_events = events.starts[windows.owners]
        starts, targets, stops = (first_events + column for column in windows[1:])
        has_prompt = (targets > starts).astype(np.int8)
        prompts, completions = (
            joined_lists(taken(self._sids, events.items[indexes]), sizes)
            for indexes, sizes in (
                (consecutive(starts, targets - starts), targets - starts),
                (consecutive(targets, stops - targets), stops - targets),
            )
        )
        lines = joined(
            self._head,
            taken(self._users, events.users[windows.owners]),
            taken(self._opening, has_prompt),
            prompts,
            taken(self._completion, has_prompt),
            completions,
            '"}\n',
        )
        lengths = self._n_before + self._tokens_of_item * (stops - starts)
        leaked = events.count_held_out(starts, stops)
        return ExampleBlock(line_bytes(lines), lengths, leaked)


def sequence_blocks(
    context: ExampleContext, events: TrainEvents, users: range, copies: BlockCopies
) -> Iterator[MakeBlock]:
    """The examples of `sequence_examples` without fields."""
    lines = _SequenceLines(context, events)
    for block in events.blocks(users):
        windows = sequence_windows(block.sizes, context.history_length)
        n_copies = copies(len(windows.owners))
        copied = Windows(*(np.repeat(column, n_copies) for column in windows))
        yield partial(lines.block, block, copied)
