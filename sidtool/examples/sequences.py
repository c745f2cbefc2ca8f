"""The tasks of whole histories: sequences, every item of which is a target, and lists of next
items."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from sidtool.base.errors import DataError
from sidtool.base.ranges import consecutive
from sidtool.data import NO_FIELDS
from sidtool.examples.blocks import (
    BlockCopies,
    EventBlock,
    ExampleBlock,
    LinePart,
    LineTexts,
    MakeBlock,
    Numbers,
    TrainEvents,
    by_row,
    escaped,
    line_part,
)
from sidtool.examples.task import Copies, ExampleContext, TrainingExample
from sidtool.model.prompt import assemble_history, template


class Windows(NamedTuple):
    """Parts of histories, one example each: an item is a target once, and all targets but those of
    an earlier window are shown before the first target."""

    owners: Numbers
    """(windows,) the history of each"""
    starts: Numbers
    """(windows,) its first item"""
    targets: Numbers
    """(windows,) its first target"""
    stops: Numbers
    """(windows,) the end of its targets"""


def sequence_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Whole histories as SIDs, in overlapping windows: every item is a target once. A prompt ends
    with a SID, as it does when serving, so that the text behind it is tokenized as a whole. Raises
    DataError if a window does not fit."""
    frame = replace(context.frames[0], item=context.frames[0].item or "{sid}")
    for sequence in context.split.train:
        history = context.histories.of_user(sequence)
        windows = sequence_windows(np.array([len(history)]), context.history_length)
        for start, target, stop in np.stack(windows[1:], axis=1).tolist():
            window = history.cut(start, stop)
            fields = window.fields.until(stop)
            codes = context.bundle.items.codes[list(window.indexes)]
            segments, _ = assemble_history(frame, context.bundle.space, codes, None, fields)
            ends = [place for place, segment in enumerate(segments, 1) if segment.kind == "sid"]
            segments = segments[: ends[-1]]  # nothing is learned from what follows the last item
            if context.length(segments) > context.max_length:
                raise DataError(
                    f"a sequence of {len(window)} items with fields does not fit "
                    f"{context.max_length} tokens",
                    hint="lower --history-length or raise --max-length",
                )
            n_context = target - start  # items that are targets of an earlier window
            cut = ends[n_context - 1] if n_context else 0
            prompt, completion = tuple(segments[:cut]), tuple(segments[cut:])
            for _ in range(copies()):
                yield TrainingExample(context.name, prompt, completion, window.events)


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


def sequence_windows(lengths: Numbers, history_length: int) -> Windows:
    """Cut (n,) histories of these lengths into examples, oldest first, so that every item is a
    target once.

    An example has `history_length` items and the next one, as a prompt has when serving. The last
    example ends where the history ends. Examples overlap, so that every target but those of the
    first example has at least half of `history_length` before it."""
    size = history_length + 1
    stride = max(1, history_length // 2)
    # the first one, and one more for every `stride` items that are left, or fewer
    n_windows = (lengths > 0) + np.maximum(0, -(-(lengths - size) // stride))
    owners = np.repeat(np.arange(len(lengths)), n_windows)
    place = consecutive(np.zeros_like(n_windows), n_windows)  # among the windows of its history
    n_later = n_windows[owners] - 1 - place
    stops = lengths[owners] - stride * n_later
    is_first = place == 0
    starts = np.where(is_first, 0, stops - size)
    targets = np.where(is_first, 0, stops - stride)
    return Windows(owners, starts, targets, stops)


class _SequenceLines:
    """The lines of sequences."""

    def __init__(self, context: ExampleContext, events: TrainEvents) -> None:
        before = template(context.frames[0].before)
        self._n_before = context.length([before])
        [text] = escaped([before.text])
        self._texts = LineTexts()
        sid_texts, n_tokens = context.sid_texts(events.used_rows)
        self._items = by_row(self._texts.add_escaped(sid_texts), events.used_rows)
        self._tokens_of_item = 0 if context.encoder is None else n_tokens
        self._users = self._texts.add_escaped(events.user_ids)
        self._head = self._texts.add([f'{{"task": "{context.name}", "user": "'])
        self._opening = self._texts.add([f'", "text": "{text}', f'", "prompt": "{text}'])
        self._completion = self._texts.add(['", "completion": "'])
        self._end = self._texts.add(['"}\n'])

    def block(self, events: EventBlock, windows: Windows) -> ExampleBlock:
        """The examples of windows of the users of a block."""
        first_events = events.starts[windows.owners]
        starts, targets, stops = (first_events + column for column in windows[1:])
        has_prompt = targets > starts
        one_each = np.ones_like(starts)
        items = self._items[events.rows]
        parts = [
            line_part(one_each * self._head),
            line_part(self._users + events.users[windows.owners]),
            line_part(self._opening + has_prompt),
            LinePart(targets - starts, items[consecutive(starts, targets - starts)]),
            LinePart(has_prompt, one_each[has_prompt] * self._completion),
            LinePart(stops - targets, items[consecutive(targets, stops - targets)]),
            line_part(one_each * self._end),
        ]
        lines = self._texts.joined(parts)
        lengths = self._n_before + self._tokens_of_item * (stops - starts)
        return ExampleBlock(lines, lengths, events.count_held_out(starts, stops))


def list_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """The lists of each user's training events (`ListTargets.lists_of`), of the items that the
    bundle has."""
    assert context.lists is not None
    item_index = context.histories.item_index
    for sequence in context.split.train:
        history = context.histories.of_user(sequence)
        in_bundle = [index for index, item in enumerate(sequence.items) if item in item_index]
        for target_list in context.lists.lists_of(sequence, context.counts):
            start = bisect_left(in_bundle, target_list.start)
            places = [(bisect_left(in_bundle, index), index) for index in target_list.targets]
            targets = [place for place, index in places if in_bundle[place : place + 1] == [index]]
            if not start or not targets:
                continue
            prompt_history = history.cut(max(0, start - context.history_length), start)
            # the fields of the history, and the context of the list's first event
            prompt_fields = history.fields.before(min(targets), tuple(context.types.context))
            rows = [history.indexes[place] for place in targets]
            target_events = [history.cut(place, place + 1).events[0] for place in targets]
            for copy in range(copies()):
                frame = context.frame(copy)
                close = template(frame.close)
                fields = prompt_fields.until(start) if frame.has_slots else NO_FIELDS
                # a prompt is cut as when serving, where the length of the list is not known before
                longest = (context.sids(rows[:1] * context.lists.length, behind_begin=True), close)
                prompt, n_items = context.history_prompt(
                    frame, prompt_history.indexes, longest, fields
                )
                events = (*prompt_history.newest(n_items).events, *target_events)
                completion = (context.sids(rows, behind_begin=True), close)
                yield TrainingExample(context.name, prompt, completion, events)
