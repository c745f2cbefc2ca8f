"""What a reward is: a number for each answer to a prompt, an item or a list."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.data import Fields
from sidtool.data.split import SplitReference
from sidtool.examples import Lineage
from sidtool.model.contract import Contract
from sidtool.model.prompt import LabelPrompt
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.reinforcement.settings import RlOptions

Matrix = NDArray[np.float64]
"""(n, G): one number for each of G answers to n prompts."""
Scores = Callable[[Sequence[NDArray[np.int64]], Sequence[Fields] | None, NDArray[np.int64]], Matrix]
"""(n histories of bundle rows, the fields known before the next item of each, (n, k) bundle rows)
-> (n, k) scores, 0 for -1."""


@dataclass(frozen=True, eq=False)
class Groups:
    """G answers of a policy, items or lists, to each of n prompts; items are rows of the bundle."""

    histories: Sequence[NDArray[np.int64]]
    """n histories of known items, oldest first; empty where a prompt has none"""
    items: NDArray[np.int64]
    """(n, G) from the item that the policy prefers, -1 where an answer is no item; of lists
    (n, G, m), -1 behind the last item"""
    targets: NDArray[np.int64] | Sequence[NDArray[np.int64]]
    """(n,) the item of each training example; of lists n arrays of the items that really
    followed"""
    fields: Sequence[Fields] | None = None
    """n fields, known before the next item of each history, if a reward reads them"""
    values: Sequence[NDArray[np.float64]] | None = None
    """of lists the weight of each target, if the examples have weights"""

    @property
    def has_lists(self) -> bool:
        """Whether answers are lists."""
        return self.items.ndim == 3


@dataclass(frozen=True, eq=False)
class RewardContext:
    """What rewards read beside the answers."""

    bundle: Bundle
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """of the rewards that have an input, by their name"""


@dataclass(frozen=True)
class RunFacts:
    """The run that the input of a reward is checked against."""

    examples: Path
    lineage: Lineage
    bundle: Bundle
    options: RlOptions
    trust_remote_code: bool = False


@dataclass(frozen=True, eq=False)
class RewardInput:
    """A memory or a model that a reward scores items by, with everything checked that needs no
    weights."""

    load: Callable[[str], Scores]
    """reads the weights, onto a device"""
    record: Callable[[], Any]
    """what identifies the input in a contract, as JSON"""
    name: str
    """as errors name it"""
    contract: Contract | None = None
    """that of a model"""
    split: SplitReference | None = None
    """the split of a memory"""
    prompt: LabelPrompt | None = None
    """a prompt that may show fields of the split"""


GroupReward = Callable[[Groups], Matrix]
"""Groups -> (n, G) rewards."""
RewardFunction = Callable[[Groups, RewardContext], Matrix]
Answer = Literal["item", "list"]


@dataclass(frozen=True)
class Reward:
    """One kind of reward: a function of the answers, or an input that gives scores to items. With
    an input, the reward of a list is the mean of its items' scores."""

    function: RewardFunction | None = None
    answers: tuple[Answer, ...] = ("item",)
    """what can have this reward"""
    open_input: Callable[[str, RunFacts], RewardInput] | None = None
    """checks the input at a path; raises SidtoolError if it does not fit the run"""
    settings: tuple[str, ...] = ()
    """settings of RlOptions that the reward needs, and no other reward uses"""
    needs_weights: bool = False
    """of the training examples"""


@dataclass(frozen=True)
class RewardTerm:
    """One term of a sum of rewards."""

    name: str
    weight: float
    kind: Reward


def reward_sum(terms: Sequence[RewardTerm], groups: Groups, context: RewardContext) -> Matrix:
    """(n, G): the weighted sum of the rewards of every answer.

    Raises DataError if a function of the user raises, returns another shape, or NaN or infinity."""
    total: Matrix = np.zeros(groups.items.shape[:2])
    for term in terms:
        if term.kind.function is not None:
            rewards = term.kind.function(groups, context)
        else:
            items = groups.items.reshape(len(groups.items), -1)  # (n, G or G * m)
            item_scores = context.scores[term.name](groups.histories, groups.fields, items)
            rewards = item_scores.reshape(groups.items.shape)
            if groups.has_lists:  # the mean over a list; places behind its end have the score 0
                n_items = (groups.items >= 0).sum(axis=-1)  # (n, G)
                rewards = rewards.sum(axis=-1) / np.maximum(n_items, 1)
        total += term.weight * rewards
    return total


NO_SPREAD = 1e-8
"""Rewards of a group that differ by less give no signal."""


def lacks_signal(rewards: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,): whether all valid items of a group have the same of (n, G) rewards, so that none is
    better."""
    highest = np.where(valid, rewards, -np.inf).max(axis=1)
    lowest = np.where(valid, rewards, np.inf).min(axis=1)
    flat: NDArray[np.bool_] = ~(highest - lowest > NO_SPREAD)
    return flat
