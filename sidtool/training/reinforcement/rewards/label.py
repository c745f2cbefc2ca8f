"""The reward `label`: the probability of a positive label under a model that predicts labels.

Its head is that of the language model, over the tokens of the labels: it reads the history with the
item as its newest event, as in its training examples of label prediction, and gives each label a
probability."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, DataError, UsageError
from sidtool.data import NO_FIELDS, Condition, Fields, Value
from sidtool.evaluation import SharedPrompt, answer_probabilities
from sidtool.model import LoadedModel, fit_prompt
from sidtool.model.contract import Contract, ModelReference
from sidtool.model.prompt import (
    LabelPrompt,
    are_numbers,
    catalog,
    label_prompt_ids,
    prompt_encoder,
    template,
)
from sidtool.training.reinforcement.rewards.reward import (
    Matrix,
    RewardInput,
    RewardModel,
    RunFacts,
)

POSITIVE = "positive_label"
"""The setting that says which labels are positive."""


def open_labels(path: str, facts: RunFacts) -> RewardInput:
    """Raises as `PositiveLabels.of` and `RewardModel.open`."""
    name = f"reward model {path}"
    model = RewardModel.open(path, name, facts)
    positive = PositiveLabels.of(model.contract, str(facts.options.positive_label), name)
    return RewardInput(
        lambda device: LabelScores.of(model.load(device), positive),
        lambda: ModelReference.of(model.folder).to_json(),
        name,
        contract=model.contract,
        prompt=positive.prompt,
    )


@dataclass(frozen=True)
class PositiveLabels:
    """The labels of one feedback that count, and the prompt that asks for it."""

    prompt: LabelPrompt
    is_positive: tuple[bool, ...]
    """for each of the prompt's labels"""

    @classmethod
    def of(cls, contract: Contract, condition: str, model: str) -> "PositiveLabels":
        """The labels that fulfill a condition, like `rating>=4`, in a model that predicts them.

        Raises CompatibilityError if the model predicts no labels, UsageError if it predicts those
        of another feedback, if all labels fulfill the condition or none does, and for a model with
        tokens of users, which such prompts lack."""
        if not contract.label_prompts:
            raise CompatibilityError(
                f"{model} was not trained to predict labels: its contract has no label prompt",
                hint="make-sft --task predict-FIELD=1, then sidtool train",
            )
        if contract.user_tokens:
            raise UsageError(
                f"{model} has user tokens, and prompts that ask for labels have none",
                hint="extend-model without --user-tokens",
            )
        parsed = Condition.parse(condition, option=POSITIVE)
        prompts = {prompt.feedback: prompt for prompt in contract.label_prompts}
        if parsed.field not in prompts:
            raise UsageError(
                f"{POSITIVE}={condition} is about {parsed.field!r}, {model} predicts "
                f"{', '.join(prompts)}"
            )
        prompt = prompts[parsed.field]
        is_positive = _fulfilling(parsed, prompt.labels)
        if all(is_positive) or not any(is_positive):
            how_many = "every label" if all(is_positive) else "no label"
            raise UsageError(
                f"{POSITIVE}={condition} is fulfilled by {how_many} of {', '.join(prompt.labels)}"
            )
        return cls(prompt, is_positive)


def _fulfilling(condition: Condition, labels: Sequence[str]) -> tuple[bool, ...]:
    values: list[Value] = list(labels)
    if not are_numbers(labels):
        return tuple(condition.holds(values, "str").tolist())
    return tuple(condition.holds([float(label) for label in labels], "float").tolist())


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Probabilities of the positive labels under a model."""

    loaded: LoadedModel
    positive: PositiveLabels

    @classmethod
    def of(cls, loaded: LoadedModel, positive: PositiveLabels) -> "LabelScores":
        """With the prompt shortened to what the model reads. Raises DataError if it has no room
        for a label."""
        scorer = cls(loaded, positive)
        prompt = fit_prompt(positive.prompt, loaded.model, max(map(len, scorer.answers)) - 1)
        return replace(scorer, positive=replace(positive, prompt=prompt))

    @property
    def answers(self) -> list[list[int]]:
        """Token ids of each label with what closes the answer."""
        prompt = self.positive.prompt
        encoder = prompt_encoder(self.loaded.tokenizer, self.loaded.tokens)
        close = template(prompt.close)
        return [encoder.ids([catalog(label), close]) for label in prompt.labels]

    def __call__(
        self,
        histories: Sequence[NDArray[np.int64]],
        fields: Sequence[Fields] | None,
        items: NDArray[np.int64],
    ) -> Matrix:
        """(n, k): the probability that each of (n, k) bundle rows, as the next item of n histories,
        has a positive label; 0 for -1. `fields` are those known before the next item of each
        history."""
        known_fields = [NO_FIELDS] * len(histories) if fields is None else fields
        distinct = [np.unique(rows[rows >= 0]) for rows in items]
        prompts = [
            self._prompts(history, of_history, rows)
            for history, of_history, rows in zip(histories, known_fields, distinct, strict=True)
        ]
        by_item = answer_probabilities(self.loaded.model, prompts, self.answers)
        scores = np.zeros(items.shape)
        for row, (rows, probabilities) in enumerate(zip(distinct, by_item, strict=True)):
            of_rows = probabilities @ np.array(self.positive.is_positive, dtype=np.float64)
            is_item = items[row] >= 0
            scores[row, is_item] = of_rows[np.searchsorted(rows, items[row, is_item])]
        return scores

    def _prompts(
        self, history: NDArray[np.int64], fields: Fields, rows: NDArray[np.int64]
    ) -> SharedPrompt:
        """The prompts that ask for the labels of several items after one history: they differ in
        the codes of their last SID."""
        tokens = self.loaded.tokens
        all_codes = self.loaded.bundle.items.codes
        if not len(rows):
            return SharedPrompt([], [])
        if tokens.lacking(all_codes[rows]).any():
            raise DataError("the reward model lacks a token of an item that the model recommends")
        with_first = all_codes[np.append(history, rows[0])]
        shown_fields = NO_FIELDS if fields is NO_FIELDS else fields.with_next()
        ids = np.array(
            label_prompt_ids(
                self.positive.prompt, self.loaded.tokenizer, tokens, with_first, shown_fields
            )
        )
        last_sid = np.flatnonzero(tokens.is_code(ids))[-tokens.space.levels :]
        start = int(last_sid[0])
        ends = np.tile(ids[start:], (len(rows), 1))
        ends[:, last_sid - start] = tokens.ids(all_codes[rows], begin_end_tokens=False)
        return SharedPrompt(ids[:start].tolist(), ends.tolist())
