"""The task of lists: the history of a user, and the next items as one answer."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from sidtool.data import NO_FIELDS
from sidtool.data.split import TargetList, target_lists
from sidtool.examples.histories import HistorySlice
from sidtool.examples.task import Copies, ExampleContext, TrainingExample
from sidtool.model.prompt import PromptFrame, Segment, sids, template


def list_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """The lists of each user's training events (`target_lists`), of the items that the bundle
    has."""
    assert context.lists is not None
    item_index = context.histories.item_index
    for sequence in context.split.train:
        history = context.histories.of_user(sequence)
        in_bundle = [index for index, item in enumerate(sequence.items) if item in item_index]
        for target_list in target_lists(sequence, context.lists, context.counts):
            start = bisect_left(in_bundle, target_list.start)
            places = [(bisect_left(in_bundle, index), index) for index in target_list.targets]
            targets = tuple(
                place for place, index in places if in_bundle[place : place + 1] == [index]
            )
            if not start or not targets:
                continue
            bundle_list = TargetList(start, targets)
            for copy in range(copies()):
                frame = context.frame(copy)
                yield _example(context, history, bundle_list, frame, context.lists.length)


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
    if frame.has_slots:  # the fields of the history, and the context of the list's first event
        first_target = min(target_list.targets)
        known = history.fields.before(first_target, tuple(context.types.context))
        fields = known.until(start)
    target_items = [history.indexes[place] for place in target_list.targets]
    completion = (_sids(context, target_items), template(frame.close))
    # a prompt is cut as when serving, where the length of the list is not known before
    longest = (_sids(context, target_items[:1] * length), template(frame.close))
    content = context.history(before.indexes, frame, fields)
    prompt, n_items = context.prompted(frame, content, longest, fields)
    events = list(before.newest(n_items).events)
    for place in target_list.targets:
        events.extend(history.cut(place, place + 1).events)
    return TrainingExample(context.name, prompt, completion, tuple(events))


def _sids(context: ExampleContext, indexes: Sequence[int]) -> Segment:
    """The SIDs of items, without the begin token of the first one, with which the prompt ends."""
    space = context.bundle.space
    whole = sids(space, context.bundle.items.codes[list(indexes)])
    return Segment("sid", sid_tokens=whole.sid_tokens[int(space.has_begin_end_tokens) :])
