"""Templates of tasks for a split: with the names of its fields, and checked against them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidtool.base.errors import UsageError
from sidtool.data.fields.fields import TARGET, FieldTypes, need_field
from sidtool.examples.list_examples import LENGTH_SLOT
from sidtool.examples.tasks import (
    LIST_TASK,
    Task,
    history_source,
    named_task,
    needs_fields,
    writes_sids,
)
from sidtool.model.prompt.field_tokens import TIMES, FieldValues
from sidtool.model.prompt.frames import HISTORY_SLOT, PromptFrame, Templates, read_templates
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.model.prompt.template_file import SPLIT_HINT, check_templates
from sidtool.model.prompt.template_slots import parse, slots

_LIKE_A_SLOT = re.compile(r"\{[A-Za-z_][\w.:-]*\}")


def templates_for(name: str, chosen: Templates | None, types: FieldTypes) -> Templates:
    """The templates of a task for a split with these fields: those `chosen` by the user, or its
    own.

    `{fields}` becomes every field of users and contexts by name, `{event}` and `{feedback}` the
    feedback of the task. Raises UsageError if the split lacks a field, for a slot that there is
    not, for several prompts of a whole history, or as `check_templates`."""
    task = named_task(name)
    if chosen is not None:
        _check_chosen(name, chosen)
    templates = chosen or read_templates(task.templates)
    has_separator = chosen is not None and bool(templates.separator)
    if has_separator and not templates.items and history_source(name) == "sid":
        # a history that is SIDs alone has no room for a separator
        templates = replace(templates, items=("{sid}",) * len(templates.prompts))
    if chosen is None and not needs_fields(name):
        return templates
    if task.feedback:
        labels = dict(types.feedback)
        if task.target == "feedback" and types.target:
            labels[TARGET] = "str"
        hint = f"sidtool split EVENTS -o SPLIT --feedback {task.feedback}"
        need_field(task.feedback, labels, "feedback", hint)
    templates = _filled(name, task, templates, types)
    shown_feedback = task.feedback if writes_sids(task) else ""
    check_templates(name, history_source(name), templates, types, shown_feedback)
    if task.target == "feedback":
        _check_prediction(templates)
    return templates


def trained_frame(prompt: HistoryPrompt, frame: PromptFrame, types: FieldTypes) -> PromptFrame:
    """The frame of a task as a model was trained with it; `frame`, of the task's own templates,
    says what closes a completion. Raises UsageError if the split lacks a field."""
    check_prompt(prompt, types)
    return replace(prompt.frame, close=frame.close)


def check_prompt(prompt: HistoryPrompt, types: FieldTypes) -> None:
    """Raise UsageError unless a split has the fields that a prompt shows."""
    items = (prompt.item,) if prompt.item else ()
    templates = Templates((prompt.template,), prompt.separator, items)
    shown_feedback = named_task(prompt.task).feedback
    check_templates(prompt.task, prompt.history_as, templates, types, shown_feedback)


def with_field_tokens(
    frames: Sequence[PromptFrame], field_tokens: FieldValues
) -> tuple[PromptFrame, ...]:
    """The frames with the tokens of a model for values, those that show any. Raises UsageError if
    the model has no tokens for a field that one shows so."""
    shown = {name for frame in frames for name in frame.token_slots}
    for name in sorted(shown - field_tokens.keys()):
        option = name if name in TIMES else f"{name}=VALUE,VALUE"
        raise UsageError(
            f"{{{name}:token}} needs a model with tokens for {name}",
            hint=f"sidtool extend-model --field-token {option}, and make-sft --model",
        )
    return tuple(
        replace(frame, field_tokens=field_tokens) if frame.token_slots else frame
        for frame in frames
    )


def _check_chosen(name: str, templates: Templates) -> None:
    """Raise UsageError for what would stay in the text of every example, or never get there."""
    if name == "sequence" and len(templates.prompts) > 1:
        raise UsageError(
            f"{len(templates.prompts)} prompts of task sequence, which shows each history once",
            hint="give one, or use the task next-item",
        )
    replaced = {HISTORY_SLOT, "{field}", "{event}", "{feedback}", "{fields}"}
    if name == LIST_TASK:
        replaced.add(LENGTH_SLOT)
    for text in (*templates.prompts, templates.separator, *templates.items):
        literal = (piece for piece in parse(text) if isinstance(piece, str))
        for slot in (found for piece in literal for found in _LIKE_A_SLOT.findall(piece)):
            if slot not in replaced:
                raise UsageError(
                    f"template {text!r:.80} has {slot}, which is no slot",
                    hint="slots are {history}, {user.FIELD}, {context.FIELD}, {event.FIELD}, {gap}",
                )


def _filled(name: str, task: Task, templates: Templates, types: FieldTypes) -> Templates:
    texts: Mapping[str, str] = {
        "{field}": task.feedback.replace("_", " "),
        "{event}": f"{{event.{task.feedback}}}",
        "{feedback}": f"{{feedback.{task.feedback}}}",
    }
    if any("{fields}" in prompt for prompt in templates.prompts):
        texts = {**texts, "{fields}": _all_fields(name, types)}

    def fill(text: str) -> str:
        for slot, value in texts.items():
            text = text.replace(slot, value)
        return text

    return Templates(
        tuple(map(fill, templates.prompts)), templates.separator, tuple(map(fill, templates.items))
    )


def _all_fields(name: str, types: FieldTypes) -> str:
    """Every field that is known before an event, by its name."""
    parts = [f"{field.replace('_', ' ')} {{user.{field}}}" for field in types.user]
    parts += [f"{field.replace('_', ' ')} {{context.{field}}}" for field in types.context]
    if types.times:
        parts.append("last event {gap} ago")
    if not parts:
        raise UsageError(
            f"task {name} needs fields of users or contexts, the split has none", hint=SPLIT_HINT
        )
    return ", ".join(parts)


def _check_prediction(templates: Templates) -> None:
    """The item that is asked about is the last one of the history."""
    for prompt in templates.prompts:
        if any(slot.part == "gap" for slot in slots(prompt)):
            raise UsageError(
                "{gap} in a prompt is the time since the last event, which is the one in question",
                hint="put it into items",
            )
