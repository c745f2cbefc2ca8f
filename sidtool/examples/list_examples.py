"""Training examples of lists: the history of a user, and the next items as one answer."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.data.split.list_targets import ListTargets, TargetList, target_lists
from sidtool.data.split.split import Event, Split
from sidtool.examples.example_context import ExampleContext, TrainingExample
from sidtool.examples.histories import HistorySlice
from sidtool.examples.task_mix import Copies
from sidtool.model.prompt.frames import PromptFrame, Templates
from sidtool.model.prompt.segments import Segment, sids, template

LENGTH_SLOT = "{length}"
"""The slot of a template for the number of items in a list."""


def with_length(templates: Templates, length: int) -> Templates:
    """The templates with the length of the lists in its slot."""
    prompts = (prompt.replace(LENGTH_SLOT, str(length)) for prompt in templates.prompts)
    return replace(templates, prompts=tuple(prompts))


def list_examples(
    context: ExampleContext,
    split: Split,
    options: ListTargets,
    counts: Callable[[Event], bool] | None,
    copies: Copies,
) -> Iterator[TrainingExample]:
    """The lists of each user's training events (`target_lists`), of the items that the bundle
    has."""
    number = 0
    for sequence in split.train:
        history = context.histories.of_user(sequence)
        item_index = context.histories.item_index
        in_bundle = [index for index, item in enumerate(sequence.items) if item in item_index]
        for target_list in target_lists(sequence, options, counts):
            bundle_list = _of_bundle(in_bundle, target_list)
            if bundle_list is None:
                continue
            for copy in range(copies()):
                frame = context.frame(copy, number)
                yield _example(context, history, bundle_list, frame, options.length)
            number += 1


def _of_bundle(in_bundle: Sequence[int], target_list: TargetList) -> TargetList | None:
    """The list by places in `in_bundle`, the ascending indexes of the events whose items the bundle
    has; None if its history or the list itself has none."""
    start = bisect_left(in_bundle, target_list.start)
    places = [(bisect_left(in_bundle, index), index) for index in target_list.targets]
    targets = tuple(place for place, index in places if in_bundle[place : place + 1] == [index])
    return TargetList(start, targets) if start and targets else None


def _example(
    context: ExampleContext,
    history: HistorySlice,
    target_list: TargetList,
    frame: PromptFrame,
    length: int,
) -> TrainingExample:
    start = target_list.start
    before = history.cut(max(0, start - context.history_length), start)
    fields = NO_FIELDS
    if frame.has_slots:
        fields = _known_fields(context, history, target_list)
    target_items = [history.indexes[place] for place in target_list.targets]
    completion = (_sids(context, target_items), template(frame.close))
    # a prompt is cut as when serving, where the length of the list is not known before
    longest = (_sids(context, target_items[:1] * length), template(frame.close))
    content = context.items.history(context.task.source, before.indexes, frame, fields)
    prompt, n_items = context.prompted(frame, content, longest, fields)
    events = list(before.newest(n_items).events)
    for place in target_list.targets:
        events.extend(history.cut(place, place + 1).events)
    return TrainingExample(context.name, prompt, completion, tuple(events))


def _known_fields(
    context: ExampleContext, history: HistorySlice, target_list: TargetList
) -> Fields:
    """The fields of the history, and the context of the list's first event."""
    first_target = min(target_list.targets)
    before_target = history.fields.before(first_target, tuple(context.types.context))
    return before_target.until(target_list.start)


def _sids(context: ExampleContext, indexes: Sequence[int]) -> Segment:
    """The SIDs of items, without the begin token of the first one, with which the prompt ends."""
    space = context.space
    whole = sids(space, context.item_map.codes[list(indexes)])
    return Segment("sid", sid_tokens=whole.sid_tokens[int(space.has_begin_end_tokens) :])
