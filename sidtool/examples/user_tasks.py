"""The tasks of users, whose examples are made one by one: the next item of a history and the
feedback of its last event; sequences, every item of which is a target; and lists of next items."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sidtool.base.errors import DataError
from sidtool.data import NO_FIELDS
from sidtool.examples.histories import HistorySlice, sequence_windows
from sidtool.examples.task import Copies, ExampleContext, TrainingExample
from sidtool.model.prompt import assemble_history, catalog, template, value_text


def event_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Training events: the history before an event, and its item."""
    has_slots = any(frame.has_slots for frame in context.frames)
    histories = context.histories.with_target(context.split)
    for number, history in enumerate(histories, start=context.first_number):
        *earlier, target = history.indexes
        if not context.completion(target, context.frames[0]):  # the item lacks that text
            continue
        if not context.has_target(history.newest(1)):
            continue
        fields = NO_FIELDS
        if has_slots:
            fields = history.fields.before(history.last, tuple(context.types.context))
        if context.task.feedback:
            label = history.fields.event[context.task.feedback][history.last]
            if label is None:
                continue
            fields = replace(fields, feedback={context.task.feedback: label})
        for copy in range(copies()):
            frame = context.frame(copy, number)
            completion = context.completion(target, frame)
            prompt, n_items = context.history_prompt(frame, earlier, completion, fields)
            events = history.newest(n_items + 1).events
            yield TrainingExample(context.name, prompt, completion, events, history.item_ids[-1])


def feedback_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Training events: the history with the event, and a feedback of it, which the prompt shows of
    earlier events only."""
    for history in context.histories.with_target(context.split, only_targets=False):
        label = history.fields.event[context.task.feedback][history.last]
        if label is None:
            continue
        # of the event itself, the last one shown, only its context and time are known
        fields = history.fields.before(history.last, tuple(context.types.context)).with_next()
        newest = history.newest(min(len(history), context.history_length))
        for copy in range(copies()):
            frame = context.frame(copy)
            completion = (catalog(value_text(label)), template(frame.close))
            prompt, n_items = context.history_prompt(frame, newest.indexes, completion, fields)
            events = newest.newest(n_items).events
            yield TrainingExample(context.name, prompt, completion, events, history.item_ids[-1])


def sequence_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Whole histories as SIDs, in overlapping windows: every item is a target once. A prompt ends
    with a SID, as it does when serving, so that the text behind it is tokenized as a whole. Raises
    DataError if a window does not fit."""
    frame = replace(context.frames[0], item=context.frames[0].item or "{sid}")
    histories: Iterator[HistorySlice] = map(context.histories.of_user, context.split.train)
    if context.split.windows is not None and context.types.times:
        # of questions: the gap before the first item is that since an item which is not shown
        histories = context.histories.with_target(context.split)
    for history in histories:
        windows = sequence_windows(np.array([len(history)]), context.history_length)
        for start, target, stop in np.stack(windows[1:], axis=1).tolist():
            window = history.cut(start, stop)
            if not context.has_target(history.cut(target, stop)):
                continue
            fields = window.fields.until(window.last + 1)
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
