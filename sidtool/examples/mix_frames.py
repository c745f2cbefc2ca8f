"""The frames of the tasks in a mix, by which their examples are written."""

from typing import Any

from sidtool.data.fields.fields import FieldTypes
from sidtool.examples.field_templates import templates_for, trained_frame, with_field_tokens
from sidtool.examples.list_examples import with_length
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.tasks import LIST_TASK, prompt_frames
from sidtool.model.prompt.field_tokens import FieldValues
from sidtool.model.prompt.frames import PromptFrame, Templates, read_templates
from sidtool.model.prompt.prompts import HistoryPrompt

Frames = dict[str, tuple[PromptFrame, ...]]
"""The frames of each task, one per template."""


def frames_of_mix(
    options: SftOptions,
    tokenizer: Any | None,
    types: FieldTypes,
    field_tokens: FieldValues,
    trained_prompt: HistoryPrompt | None = None,
) -> Frames:
    """The frames of every task in a mix.

    With the prompt of a trained model, its task has the frame that the model was trained on.
    `field_tokens` are the values that have tokens in the model. Raises UsageError if a template
    shows a field that the split has not or the model has no tokens for, and if the tokenizer has no
    usable chat template."""
    format = options.example_format(tokenizer)
    frames: Frames = {}
    for task in options.tasks:
        templates = templates_for(task, _chosen_templates(task, options), types)
        of_task = prompt_frames(task, tokenizer, format, templates)
        frames[task] = with_field_tokens(of_task, field_tokens)
    if trained_prompt is not None and trained_prompt.task in frames:
        task = trained_prompt.task
        frames[task] = (trained_frame(trained_prompt, frames[task][0], types),)
    return frames


def _chosen_templates(task: str, options: SftOptions) -> Templates | None:
    """The templates of a task that are not its own ones: those of the user, and those of lists,
    which name their length."""
    chosen = options.templates.get(task)
    targets = options.list_targets
    if task != LIST_TASK or targets is None:
        return chosen
    return with_length(chosen or read_templates(LIST_TASK), targets.length)
