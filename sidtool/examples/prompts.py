"""How the tasks of a mix are phrased: the frames of their prompts for a split and a tokenizer, and
the prompts that a model has learned from them, for its contract."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from sidtool.base.errors import UsageError
from sidtool.data import FieldTypes
from sidtool.data.split import Split
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.tasks import (
    TEXT_PROMPT_TASKS,
    history_prompt_task,
    history_source,
    named_task,
)
from sidtool.model.prompt import (
    SPLIT_HINT,
    HistoryPrompt,
    LabelPrompt,
    ListPrompt,
    PromptEncoder,
    PromptFrame,
    Segment,
    Templates,
    TextPrompt,
    catalog,
    make_frame,
    sorted_labels,
    template,
    value_text,
)
from sidtool.model.vocabulary import TIMES, FieldValues
from sidtool.tokenizer.sid import SidSpace

LENGTH_SLOT = "{length}"
"""The slot of a template for the number of items in a list."""

Frames = dict[str, tuple[PromptFrame, ...]]
"""The frames of each task, one per template."""


def frames_of_mix(
    options: SftOptions,
    tokenizer: Any | None,
    types: FieldTypes,
    field_tokens: FieldValues,
    trained_prompt: HistoryPrompt | None = None,
) -> Frames:
    """The frames of every task in a mix, one per template, of which a trained model recommends with
    the first.

    With the prompt of a trained model, its task has the frame that the model was trained on; the
    frame of the task's own templates says what closes a completion. `field_tokens` are the values
    that have tokens in the model. Raises UsageError if a template shows a field that the split has
    not or the model has no tokens for, and if the tokenizer has no usable chat template."""
    format = options.example_format(tokenizer)
    frames: Frames = {}
    for name in options.tasks:
        task_templates = options.templates.get(name)
        task = named_task(name)
        if task.target == "list" and (lists := options.list_targets) is not None:
            task_templates = task_templates or Templates.of_task(task.templates)
            task_templates = task_templates.filled({LENGTH_SLOT: str(lists.length)})
        templates = templates_for(name, task_templates, types)
        # whole histories and running text, which have no prompt, are always plain
        form = "text" if task.is_sequence or task.target == "text" else format
        task_frames = []
        for number, prompt in enumerate(templates.prompts):
            prompt = prompt.replace("{field}", task.column.replace("_", " "))
            frame = make_frame(prompt, tokenizer, form, templates.separator)
            close = "" if task.is_sequence else frame.close
            frame = replace(frame, item=templates.item(number), close=close)
            task_frames.append(with_field_tokens(frame, field_tokens))
        frames[name] = tuple(task_frames)
    if trained_prompt is not None and trained_prompt.task in frames:
        check_prompt(trained_prompt, types)
        close = frames[trained_prompt.task][0].close
        frames[trained_prompt.task] = (replace(trained_prompt.frame, close=close),)
    return frames


def templates_for(name: str, user_templates: Templates | None, types: FieldTypes) -> Templates:
    """The templates of a task for a split with these fields: `user_templates`, or its own.

    `{fields}` becomes every field of users and contexts by name, `{event}` and `{feedback}` the
    feedback of the task. Raises UsageError if the split lacks a field, for a slot that there is
    not, for several prompts of a whole history, and as `Templates.check`."""
    task = named_task(name)
    if user_templates is not None:
        if task.is_sequence and len(user_templates.prompts) > 1:
            raise UsageError(
                f"{len(user_templates.prompts)} prompts of task {name}, which shows each "
                "history once",
                hint="give one, or use the task next-item",
            )
        replaced = ["{field}", "{event}", "{feedback}", "{fields}"]
        user_templates.check_slots([*replaced, LENGTH_SLOT] if task.target == "list" else replaced)
    templates = user_templates or Templates.of_task(task.templates)
    has_separator = user_templates is not None and bool(templates.separator)
    if has_separator and not templates.items and history_source(name) == "sid":
        # a history that is SIDs alone has no room for a separator
        templates = replace(templates, items=("{sid}",) * len(templates.prompts))
    if user_templates is None and not task.needs_fields:
        return templates
    if task.feedback:
        hint = f"sidtool split EVENTS -o SPLIT --feedback {task.feedback}"
        types.need_feedback(task.feedback, hint, as_label=task.target == "feedback")
    slot_values = {
        "{field}": task.feedback.replace("_", " "),
        "{event}": f"{{event.{task.feedback}}}",
        "{feedback}": f"{{feedback.{task.feedback}}}",
    }
    if any("{fields}" in prompt for prompt in templates.prompts):
        slot_values["{fields}"] = _all_fields(name, types)
    templates = templates.filled(slot_values)
    shown_feedback = task.feedback if task.writes_sids else ""
    templates.check(name, history_source(name), types, shown_feedback, is_sequence=task.is_sequence)
    gaps = [prompt for prompt in templates.prompts if "{gap}" in prompt or "{gap:token}" in prompt]
    if task.target == "feedback" and gaps:
        raise UsageError(
            "{gap} in a prompt is the time since the last event, which is the one in question",
            hint="put it into items",
        )
    return templates


def check_prompt(prompt: HistoryPrompt, types: FieldTypes) -> None:
    """Raise UsageError unless a split has the fields that a prompt shows."""
    items = (prompt.item,) if prompt.item else ()
    templates = Templates((prompt.template,), prompt.separator, items)
    task = named_task(prompt.task)
    templates.check(
        prompt.task, prompt.history_as, types, task.feedback, is_sequence=task.is_sequence
    )


def with_field_tokens(frame: PromptFrame, field_tokens: FieldValues) -> PromptFrame:
    """The frame with the tokens of a model for values, if it shows any. Raises UsageError if the
    model has no tokens for a field that it shows so."""
    for name in sorted(frame.token_slots - field_tokens.keys()):
        option = name if name in TIMES else f"{name}=VALUE,VALUE"
        raise UsageError(
            f"{{{name}:token}} needs a model with tokens for {name}",
            hint=f"sidtool extend-model --field-token {option}, and make-sft --model",
        )
    return replace(frame, field_tokens=field_tokens) if frame.token_slots else frame


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


_Prompt = TypeVar("_Prompt", bound=HistoryPrompt)


@dataclass(frozen=True)
class ServedPrompts:
    """The prompts by which a model trained on a mix of tasks is queried.

    A prompt leaves room for its answer within `max_length` tokens. Without an encoder only the
    tokens of SIDs are counted."""

    options: SftOptions
    frames: Frames
    space: SidSpace
    encoder: PromptEncoder | None
    without: frozenset[str] = frozenset()
    """Tasks that no example was made of"""

    @property
    def _tasks(self) -> dict[str, float]:
        tasks = self.options.tasks
        return {name: weight for name, weight in tasks.items() if name not in self.without}

    @property
    def history(self) -> HistoryPrompt | None:
        """The prompt that asks for an item after a history, or None without such a task."""
        task = history_prompt_task(self._tasks)
        if task is None:
            return None
        lists = self.options.list_targets
        # the first item of a list: the prompt is cut as it was in training
        n_sids = lists.length if lists is not None and named_task(task).target == "list" else 1
        return self._after_history(HistoryPrompt, task, self._answer_length(task, n_sids))

    @property
    def list(self) -> ListPrompt | None:
        """The prompt that asks for a list of items, or None without such a task."""
        task = next((name for name in self._tasks if named_task(name).target == "list"), None)
        lists = self.options.list_targets
        if task is None or lists is None:
            return None
        n_answer = self._answer_length(task, lists.length)
        return self._after_history(ListPrompt, task, n_answer, list_length=lists.length)

    def labels(self, split: Split) -> tuple[LabelPrompt, ...]:
        """The prompts that ask for feedback, of each task whose answers in the training events are
        two labels or more, as `sorted_labels` finds them."""
        prompts = []
        for name in self._tasks:
            task = named_task(name)
            if task.target != "feedback":
                continue
            column = split.train.store.fields[task.feedback]
            used = np.unique(column.codes[split.train.items.places])
            values = (value for value in column.names[used].tolist() if value is not None)
            labels = sorted_labels(map(value_text, values))
            if len(labels) > 1:
                close = self.frames[name][0].close
                answers = [[catalog(label), template(close)] for label in labels]
                n_answer = max(map(self._length, answers))
                more = {"feedback": task.feedback, "labels": labels, "close": close}
                prompts.append(self._after_history(LabelPrompt, name, n_answer, **more))
        return tuple(prompts)

    @property
    def text(self) -> TextPrompt | None:
        """The prompt that asks for an item by its text, or None without such a task."""
        task = next((task for task in TEXT_PROMPT_TASKS if task in self._tasks), None)
        if task is None:
            return None
        frame = self.frames[task][0]
        max_length = self._prompt_length(task, self._answer_length(task))
        return TextPrompt.of_frame(frame, task, max_length)

    @property
    def templates(self) -> dict[str, tuple[str, ...]]:
        """The literal text of every template in the mix, for the lineage."""
        texts = {}
        for task, frames in self.frames.items():
            # in running text the item is the content, else the prompt ends with the answer
            answer = "" if named_task(task).target == "text" else "{answer}"
            texts[task] = tuple(
                frame.template(frame.item or "{…}") + answer + frame.close for frame in frames
            )
        return texts

    @property
    def field_tokens(self) -> FieldValues:
        """The values with tokens, if a template of the mix shows tokens."""
        frames = (frame for task_frames in self.frames.values() for frame in task_frames)
        return next((frame.field_tokens for frame in frames if frame.field_tokens), {})

    def _after_history(self, kind: type[_Prompt], task: str, n_answer: int, **more: Any) -> _Prompt:
        """The prompt of a history, which `n_answer` tokens answer; `more` are fields of its
        kind."""
        frame = self.frames[task][0]
        return kind.of_frame(
            frame,
            task=task,
            history_length=self.options.history_length,
            max_length=self._prompt_length(task, n_answer),
            history_as=named_task(task).history_source or "sid",
            **more,
        )

    def _prompt_length(self, task: str, n_answer: int) -> int:
        """Tokens of a prompt that `n_answer` tokens answer. Raises UsageError without room for
        one."""
        if n_answer >= self.options.max_length:
            raise UsageError(
                f"an answer of task {task} takes {n_answer} tokens, an example has at most "
                f"{self.options.max_length}",
                hint="raise --max-length",
            )
        return self.options.max_length - n_answer

    def _answer_length(self, task: str, n_sids: int = 1) -> int:
        """Tokens of SIDs and of the end of the completion."""
        close = self._length([template(self.frames[task][0].close)])
        edges = self.space.has_begin_end_tokens
        # the begin token of the first SID is the end of the prompt
        return n_sids * (self.space.levels + 2 * edges) - edges + close

    def _length(self, segments: Sequence[Segment]) -> int:
        return 0 if self.encoder is None else self.encoder.length(segments)
