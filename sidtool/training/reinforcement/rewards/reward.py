"""What a reward is: a number for each answer to a prompt, an item or a list."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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
    """n groups of G items, each the items that a policy recommends for one prompt; items are rows
    of the bundle."""

    histories: Sequence[NDArray[np.int64]]
    """n histories of known items, oldest first; empty where a prompt has none"""
    items: NDArray[np.int64]
    """(n, G): each group from the item that the policy prefers; -1 is an answer that is no item"""
    targets: NDArray[np.int64]
    """(n,): the item of each training example"""
    fields: Sequence[Fields] | None = None
    """n fields, known before the next item of each history, if a reward reads them"""


@dataclass(frozen=True, eq=False)
class ListGroups:
    """G lists for each of n prompts; items are rows of the bundle."""

    histories: Sequence[NDArray[np.int64]]
    """n histories, oldest item first"""
    items: NDArray[np.int64]
    """(n, G, m): -1 behind the last item of a list"""
    targets: Sequence[NDArray[np.int64]]
    """n lists of the items that really followed"""
    values: Sequence[NDArray[np.float64]] | None = None
    """the weight of each target, if the examples have weights"""
    fields: Sequence[Fields] | None = None
    """as in `Groups`"""


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


AnyGroups = TypeVar("AnyGroups", Groups, ListGroups)
RewardFunction = Callable[[AnyGroups, RewardContext], Matrix]


@dataclass(frozen=True)
class Reward:
    """One kind of reward: functions of the answers, or an input that gives scores to items. With
    an input, the reward of a list is the mean of its items' scores."""

    of_items: RewardFunction[Groups] | None = None
    of_lists: RewardFunction[ListGroups] | None = None
    open_input: Callable[[str, RunFacts], RewardInput] | None = None
    """checks the input at a path; raises SidtoolError if it does not fit the run"""
    settings: tuple[str, ...] = ()
    """settings of RlOptions that the reward needs, and no other reward uses"""
    needs_weights: bool = False
    """of the training examples"""

    def applies_to(self, *, lists: bool) -> bool:
        """Whether lists, or items, can have this reward."""
        return (
            self.open_input is not None or (self.of_lists if lists else self.of_items) is not None
        )


@dataclass(frozen=True)
class RewardTerm:
    """One term of a sum of rewards."""

    name: str
    weight: float
    kind: Reward


def reward_sum(
    terms: Sequence[RewardTerm], groups: Groups | ListGroups, context: RewardContext
) -> Matrix:
    """The weighted sum of the rewards of every answer; there is at least one term.

    Raises DataError if a function of the user raises, returns another shape, or NaN or infinity."""
    total: Matrix = np.sum([term.weight * _reward(term, groups, context) for term in terms], axis=0)
    return total


def _reward(term: RewardTerm, groups: Groups | ListGroups, context: RewardContext) -> Matrix:
    """One reward of every answer."""
    is_of_items = isinstance(groups, Groups)
    if term.kind.open_input is None:
        function: Any = term.kind.of_items if is_of_items else term.kind.of_lists
        rewards: Matrix = function(groups, context)
        return rewards
    rows = groups.items.reshape(len(groups.items), -1)  # (n, G or G * m)
    flat = context.scores[term.name](groups.histories, groups.fields, rows)
    scores: Matrix = flat.reshape(groups.items.shape)
    if is_of_items:
        return scores
    n_items = (groups.items >= 0).sum(axis=-1)  # (n, G)
    means: Matrix = scores.sum(axis=-1) / np.maximum(n_items, 1)
    return means
