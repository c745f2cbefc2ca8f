"""The tasks of training events: the next item of a history, and the feedback of its last one."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from sidtool.data import NO_FIELDS
from sidtool.examples.blocks import BlockCopies, MakeBlock, TrainEvents
from sidtool.examples.event_lines import EventLines
from sidtool.examples.task import Copies, ExampleContext, TrainingExample
from sidtool.model.prompt import catalog, template, value_text


def event_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Training events: the history before an event, and its item."""
    has_slots = any(frame.has_slots for frame in context.frames)
    histories = context.histories.with_target(context.split)
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
            content = context.history(earlier, frame, fields)
            prompt, n_items = context.prompted(frame, content, completion, fields)
            events = history.newest(n_items + 1).events
            yield TrainingExample(context.name, prompt, completion, events, history.item_ids[-1])


def event_blocks(
    context: ExampleContext, events: TrainEvents, users: range, copies: BlockCopies
) -> Iterator[MakeBlock]:
    """The examples of `event_examples` without fields."""
    lines = EventLines(context, events)
    first_number = context.first_number
    for block in events.blocks(users, context.history_length + 1):
        answers = lines.answers(block, first_number)
        n_copies = copies(len(answers.events))
        yield partial(lines.block, block, answers, n_copies)
        first_number += int(np.maximum(block.sizes - 1, 0).sum())


def feedback_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Training events: the history with the event, and a feedback of it, which the prompt shows of
    earlier events only."""
    for history in context.histories.with_target(context.split, only_targets=False):
        label = history.last_value(context.task.feedback)
        if label is None:
            continue
        fields = history.known_before_last(tuple(context.types.context)).with_next()
        newest = history.newest(min(len(history), context.history_length))
        for copy in range(copies()):
            frame = context.frame(copy)
            completion = (catalog(value_text(label)), template(frame.close))
            content = context.history(newest.indexes, frame, fields)
            prompt, n_items = context.prompted(frame, content, completion, fields)
            events = newest.newest(n_items).events
            yield TrainingExample(context.name, prompt, completion, events, history.item_ids[-1])
