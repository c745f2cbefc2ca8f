"""The reward `label`: the probability of a positive label under a model that predicts labels.

Its head is that of the language model, over the tokens of the labels: it reads the history with the
item as its newest event, as in its training examples of label prediction, and gives each label a
probability."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, DataError, UsageError
from sidtool.data import NO_FIELDS, Condition, Fields
from sidtool.evaluation.tasks import SharedPrompt, answer_probabilities
from sidtool.model import LoadedModel, check_model_folder, load_model_folder
from sidtool.model.contract import Contract, ModelReference, check_model_split, model_folder
from sidtool.model.prompt import (
    LabelPrompt,
    catalog,
    fit_prompt,
    label_prompt_ids,
    prompt_encoder,
    template,
)
from sidtool.training.reinforcement.rewards.reward import Matrix, RewardInput, RunFacts

POSITIVE = "positive_label"
"""The setting that says which labels are positive."""


def open_labels(path: str, facts: RunFacts) -> RewardInput:
    """Raises CompatibilityError if the model is of another bundle, or may have learned what the
    examples' split holds out, and as `positive_labels`."""
    name = f"reward model {path}"
    trust = facts.trust_remote_code
    folder = model_folder(path, trust_remote_code=trust)
    contract, _, _ = check_model_folder(folder, facts.bundle)
    made_from = (str(facts.examples), facts.lineage.split)
    check_model_split(contract, facts.bundle, *made_from, model=name)
    prompt, is_positive = positive_labels(contract, str(facts.options.positive_label), name)

    def load(device: str) -> LabelScores:
        loaded = load_model_folder(
            folder, bundle=facts.bundle, device=device, trust_remote_code=trust
        )
        return LabelScores(loaded, prompt, is_positive)

    return RewardInput(
        load, lambda: ModelReference.of(folder).to_json(), name, contract=contract, prompt=prompt
    )


def positive_labels(
    contract: Contract, condition: str, model: str
) -> tuple[LabelPrompt, tuple[bool, ...]]:
    """The prompt of a model that asks for a feedback, and which of its labels fulfill a condition,
    like `rating>=4`.

    Raises CompatibilityError if the model predicts no labels, UsageError if it predicts those of
    another feedback, if all labels fulfill the condition or none does, and for a model with tokens
    of users, which such prompts lack."""
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
    is_positive = prompt.fulfilling(parsed)
    if len(set(is_positive)) == 1:
        how_many = "every label" if is_positive[0] else "no label"
        raise UsageError(
            f"{POSITIVE}={condition} is fulfilled by {how_many} of {', '.join(prompt.labels)}"
        )
    return prompt, is_positive


class LabelScores:
    """Probabilities of the positive labels under a model; `is_positive` is for each of the prompt's
    labels. The prompt is shortened to what the model reads. Raises DataError if it has no room for
    a label."""

    def __init__(
        self, loaded: LoadedModel, prompt: LabelPrompt, is_positive: tuple[bool, ...]
    ) -> None:
        encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
        close = template(prompt.close)
        self.answers = [encoder.ids([catalog(label), close]) for label in prompt.labels]
        """Token ids of each label with what closes the answer."""
        longest = max(map(len, self.answers))
        self.loaded = loaded
        self.prompt = fit_prompt(prompt, loaded.model, longest - 1)
        self.is_positive = is_positive

    def __call__(
        self,
        histories: Sequence[NDArray[np.int64]],
        fields: Sequence[Fields] | None,
        items: NDArray[np.int64],
    ) -> Matrix:
        """(n, k): the probability that each of (n, k) bundle rows, as the next item of n histories,
        has a positive label; 0 for -1. `fields` are those known before the next item of each
        history."""
        all_fields = [NO_FIELDS] * len(histories) if fields is None else fields
        distinct = [np.unique(rows[rows >= 0]) for rows in items]
        prompts = [
            self._prompts(history, history_fields, rows)
            for history, history_fields, rows in zip(histories, all_fields, distinct, strict=True)
        ]
        by_item = answer_probabilities(self.loaded.model, prompts, self.answers)
        scores = np.zeros(items.shape)
        for row, (rows, probabilities) in enumerate(zip(distinct, by_item, strict=True)):
            row_scores = probabilities @ np.array(self.is_positive, dtype=np.float64)
            is_item = items[row] >= 0
            scores[row, is_item] = row_scores[np.searchsorted(rows, items[row, is_item])]
        return scores

    def _prompts(
        self, history: NDArray[np.int64], fields: Fields, rows: NDArray[np.int64]
    ) -> SharedPrompt:
        """The prompts for several items after one history differ in the codes of the last SID."""
        tokens = self.loaded.tokens
        all_codes = self.loaded.bundle.items.codes
        if not len(rows):
            return SharedPrompt([], [])
        if tokens.lacking(all_codes[rows]).any():
            raise DataError("the reward model lacks a token of an item that the model recommends")
        with_first = all_codes[np.append(history, rows[0])]
        shown_fields = NO_FIELDS if fields is NO_FIELDS else fields.with_next()
        ids = np.array(
            label_prompt_ids(self.prompt, self.loaded.tokenizer, tokens, with_first, shown_fields)
        )
        last_sid = np.flatnonzero(tokens.is_code(ids))[-tokens.space.levels :]
        start = int(last_sid[0])
        ends = np.tile(ids[start:], (len(rows), 1))
        ends[:, last_sid - start] = tokens.ids(all_codes[rows], begin_end_tokens=False)
        return SharedPrompt(ids[:start].tolist(), ends.tolist())
