"""The task of whole histories, every item of which is a target."""

from collections.abc import Iterator
from dataclasses import replace

from sidtool.base.errors import DataError
from sidtool.examples.histories import HistorySlice
from sidtool.examples.task import Copies, ExampleContext, TrainingExample
from sidtool.model.prompt.segments import Segment, sids, template
from sidtool.model.prompt.template_slots import frame_segments, joined


def sequence_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Whole histories as SIDs, in overlapping windows: every item is a target once."""
    for sequence in context.split.train:
        history = context.histories.of_user(sequence)
        for start, target, stop in sequence_windows(len(history), context.history_length):
            window = history.cut(start, stop)
            n_context = target - start  # items that are targets of an earlier window
            if context.frames[0].has_slots:
                prompt, completion = _with_fields(context, window, n_context)
            else:
                prompt, completion = _as_sids(context, window, n_context)
            for _ in range(copies()):
                yield TrainingExample(context.name, prompt, completion, window.events)


def sequence_windows(length: int, history_length: int) -> list[tuple[int, int, int]]:
    """Cut a history into examples (start, first target, stop), so that every item is a target once.

    An example has `history_length` items and the next one, as a prompt has when serving. The last
    example ends where the history ends. Examples overlap, so that no target of a long history has
    less than half of `history_length` before it."""
    size = history_length + 1
    stride = max(1, history_length // 2)
    windows: list[tuple[int, int, int]] = []
    stop = length  # from the newest window to the oldest
    while stop > size:
        windows.append((stop - size, stop - stride, stop))
        stop -= stride
    if length:
        windows.append((0, 0, stop))
    return windows[::-1]


def _as_sids(
    context: ExampleContext, window: HistorySlice, n_context: int
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Prompt and completion of a window whose first `n_context` items are no targets. It needs no
    measuring: ExampleMaker has checked that the longest one fits."""
    before = template(context.frames[0].before)
    codes = context.bundle.items.codes[window.indexes]
    targets = sids(context.bundle.space, codes[n_context:])
    if not n_context:
        return (), (before, targets)
    return (before, sids(context.bundle.space, codes[:n_context])), (targets,)


def _with_fields(
    context: ExampleContext, window: HistorySlice, n_context: int
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """As `_as_sids`, with fields. The prompt ends with a SID, as it does when serving, so that the
    text behind it is tokenized as a whole. Raises DataError if the window does not fit."""
    frame = replace(context.frames[0], item=context.frames[0].item or "{sid}")
    fields = window.fields.until(window.first + len(window))
    content = context.history(window.indexes, frame, fields)
    before = frame_segments(frame.before, fields, frame.tokens)
    segments = joined([*before, *content.newest(len(content))])
    ends = [place for place, segment in enumerate(segments, 1) if segment.kind == "sid"]
    segments = segments[: ends[-1]]  # nothing is learned from what follows the last item
    if context.encoder is not None and context.encoder.length(segments) > context.max_length:
        raise DataError(
            f"a sequence of {len(window)} items with fields does not fit {context.max_length} "
            "tokens",
            hint="lower --history-length or raise --max-length",
        )
    cut = ends[n_context - 1] if n_context else 0
    return tuple(segments[:cut]), tuple(segments[cut:])
