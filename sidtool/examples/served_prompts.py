"""The prompts that a model has learned from a mix of tasks, for its contract."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidtool.data.split.list_targets import ListTargets
from sidtool.data.split.split import Split
from sidtool.examples.field_examples import labels_of_task
from sidtool.examples.mix_frames import Frames
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.tasks import LIST_TASK, history_prompt_task, named_task, text_prompt_task
from sidtool.model.prompt.encoder import PromptEncoder
from sidtool.model.prompt.field_tokens import FieldValues
from sidtool.model.prompt.frames import HISTORY_SLOT, ITEM_SLOT
from sidtool.model.prompt.prompts import HistoryPrompt, LabelPrompt, ListPrompt, TextPrompt
from sidtool.model.prompt.segments import Segment, catalog, template
from sidtool.tokenizer.sid import SidSpace


@dataclass(frozen=True)
class ServedPrompts:
    """The prompts by which a model trained on a mix of tasks is asked.

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
    def _list_targets(self) -> ListTargets | None:
        return None if LIST_TASK in self.without else self.options.list_targets

    @property
    def history(self) -> HistoryPrompt | None:
        """The prompt that asks for an item after a history, or None without such a task."""
        task = history_prompt_task(self._tasks)
        if task is None:
            return None
        targets = self._list_targets
        # the first item of a list: the prompt is cut as it was in training
        n_sids = targets.length if targets is not None and task == LIST_TASK else 1
        return HistoryPrompt(**self._after_history(task, self._answer_length(task, n_sids)))

    @property
    def list(self) -> ListPrompt | None:
        """The prompt that asks for a list of items, or None without such a task."""
        targets = self._list_targets
        if targets is None:
            return None
        n_answer = self._answer_length(LIST_TASK, targets.length)
        return ListPrompt(**self._after_history(LIST_TASK, n_answer), list_length=targets.length)

    def labels(self, split: Split) -> tuple[LabelPrompt, ...]:
        """The prompts that ask for feedback, of each task whose answers in the training events are
        a few different labels."""
        prompts = []
        for task in self._tasks:
            labels = labels_of_task(task, split)
            if labels:
                close = self.frames[task][0].close
                answers = [[catalog(label), template(close)] for label in labels]
                fields = self._after_history(task, max(map(self._length, answers)))
                feedback = named_task(task).feedback
                prompts.append(LabelPrompt(**fields, feedback=feedback, labels=labels, close=close))
        return tuple(prompts)

    @property
    def text(self) -> TextPrompt | None:
        """The prompt that asks for an item by its text, or None without such a task."""
        task = text_prompt_task(self._tasks)
        if task is None:
            return None
        frame = self.frames[task][0]
        return TextPrompt(
            task=task,
            template=frame.template(ITEM_SLOT),
            max_length=self.options.max_length - self._answer_length(task),
            format=frame.format,
        )

    @property
    def field_tokens(self) -> FieldValues:
        """The values with tokens, if a template of the mix shows tokens."""
        frames = (frame for of_task in self.frames.values() for frame in of_task)
        return next((each.field_tokens for each in frames if each.field_tokens), {})

    def _after_history(self, task: str, n_answer: int) -> dict[str, Any]:
        """The fields of the prompt of a history, which `n_answer` tokens answer."""
        frame = self.frames[task][0]
        return {
            "task": task,
            "template": frame.template(HISTORY_SLOT),
            "history_length": self.options.history_length,
            "max_length": self.options.max_length - n_answer,
            "format": frame.format,
            "history_as": "title" if named_task(task).source == "title" else "sid",
            "separator": frame.separator,
            "item": frame.item,
            "field_tokens": frame.field_tokens,
        }

    def _answer_length(self, task: str, n_sids: int = 1) -> int:
        """Tokens of SIDs and of the end of the completion."""
        close = self._length([template(self.frames[task][0].close)])
        edges = self.space.has_begin_end_tokens
        # the begin token of the first SID is the end of the prompt
        return n_sids * (self.space.levels + 2 * edges) - edges + close

    def _length(self, segments: Sequence[Segment]) -> int:
        return 0 if self.encoder is None else self.encoder.length(segments)


def literal_templates(frames: Frames) -> dict[str, tuple[str, ...]]:
    """The literal text of every template in a mix, for the lineage."""
    return {
        task: tuple(
            # in running text the item is the content, else the prompt ends with the answer
            frame.template(frame.item or "{…}")
            + ("" if named_task(task).target == "text" else "{answer}")
            + frame.close
            for frame in of_task
        )
        for task, of_task in frames.items()
    }
