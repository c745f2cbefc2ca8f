"""The reward `teacher`: the probability of an item under another trained model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.model import LoadedModel
from sidtool.model.contract import ModelReference
from sidtool.recommendation import Query, QuerySession
from sidtool.tokenizer.sid import ItemRows
from sidtool.training.reinforcement.rewards.reward import (
    Matrix,
    RewardInput,
    RewardModel,
    RunFacts,
    Scores,
)

PROMPTS = 8
"""Prompts that a teacher scores together: each is scored on the items of all of them."""


def open_teacher(path: str, facts: RunFacts) -> RewardInput:
    """Raises CompatibilityError if the model recommends from no history, UsageError if it reads
    more than a history, and as `RewardModel.open`."""
    name = f"teacher {path}"
    model = RewardModel.open(path, name, facts)
    prompt = model.contract.history_prompt
    if prompt is None:
        raise CompatibilityError(
            f"{name} was not trained to recommend: its contract has no history prompt",
            hint="train it on a task such as next-item",
        )
    if prompt.shows_fields or model.contract.user_tokens:
        shown = "fields" if prompt.shows_fields else "tokens of users"
        raise UsageError(f"the prompt of {name} shows {shown}, the reward teacher reads items only")
    return RewardInput(
        lambda device: teacher_scores(model.load(device)),
        lambda: ModelReference.of(model.folder),
        name,
        contract=model.contract,
    )


def teacher_scores(teacher: LoadedModel) -> Scores:
    """Probabilities of a trained model, without its memory, relative to the sum over each group.
    The model reads histories by its own prompt.

    Raises DataError if the model was not trained to recommend from histories."""
    session = QuerySession.of(teacher)
    session.from_history(ItemRows(np.zeros(1, dtype=np.int64)))  # raises if it has no such prompt

    def score(histories: Sequence[NDArray[np.int64]], _: Any, items: NDArray[np.int64]) -> Matrix:
        logs = np.full(items.shape, -np.inf)
        for start in range(0, len(items), PROMPTS):
            rows = slice(start, start + PROMPTS)
            candidates, column = np.unique(np.maximum(items[rows], 0), return_inverse=True)
            prompts = [session.from_history(ItemRows(history)) for history in histories[rows]]
            # (prompts, candidates)
            scores = session.score(teacher.model, list(map(Query, prompts)), ItemRows(candidates))
            columns = column.reshape(items[rows].shape)  # where each group's candidates are
            logs[rows] = np.take_along_axis(scores, columns, axis=1)
        logs[items < 0] = -np.inf
        return _softmax(logs)

    return score


def _softmax(logs: Matrix) -> Matrix:
    """Over each row; zeros for a row without a finite number."""
    largest = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - np.where(np.isfinite(largest), largest, 0.0))
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
