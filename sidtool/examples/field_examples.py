"""Training examples that show or predict fields of events."""

from collections.abc import Iterator
from dataclasses import replace

from sidtool.base.errors import DataError
from sidtool.data.split.split import Split
from sidtool.examples.example_context import ExampleContext, TrainingExample
from sidtool.examples.histories import HistorySlice
from sidtool.examples.task_mix import Copies
from sidtool.examples.tasks import named_task
from sidtool.model.prompt.labels import MOST_LABELS, sorted_labels
from sidtool.model.prompt.segments import Segment, catalog, template
from sidtool.model.prompt.template_slots import frame_segments, joined, value_text


def sequence_with_fields(
    context: ExampleContext, window: HistorySlice, n_context: int
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Prompt and completion of a window whose first `n_context` items are no targets. The prompt
    ends with a SID, as it does when serving, so that the text behind it is tokenized as a whole.
    Raises DataError if the window does not fit."""
    frame = replace(context.frames[0], item=context.frames[0].item or "{sid}")
    fields = window.fields.until(window.first + len(window))
    content = context.items.history("sid", window.indexes, frame, fields)
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


def feedback_examples(
    context: ExampleContext, split: Split, copies: Copies
) -> Iterator[TrainingExample]:
    """Training events: the history with the event, and a feedback of it, which the prompt shows of
    earlier events only."""
    histories = context.histories.with_target(split, only_targets=False)
    for number, history in enumerate(histories, start=context.first_number):
        label = history.last_value(context.task.feedback)
        if label is None:
            continue
        fields = history.known_of_last(context.types)
        newest = history.newest(min(len(history), context.history_length))
        for copy in range(copies()):
            frame = context.frame(copy, number)
            completion = (catalog(value_text(label)), template(frame.close))
            content = context.items.history("sid", newest.indexes, frame, fields)
            prompt, n_items = context.prompted(frame, content, completion, fields)
            events = newest.newest(n_items).events
            yield TrainingExample(context.name, prompt, completion, events, history.item_ids[-1])


def labels_of_task(name: str, split: Split) -> tuple[str, ...]:
    """The different feedbacks of the training events that a task predicts; () if it predicts none,
    or if they are not from 2 to MOST_LABELS."""
    task = named_task(name)
    if task.target != "feedback":
        return ()
    values = {value for user in split.train for value in user.fields.event.get(task.feedback, ())}
    labels = sorted_labels(value_text(value) for value in values if value is not None)
    return labels if 2 <= len(labels) <= MOST_LABELS else ()
