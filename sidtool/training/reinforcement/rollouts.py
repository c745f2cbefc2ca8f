"""Groups of items for training examples. The order of examples, and when checkpoints are due, make
a run that resumes equal to one that was not stopped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

from sidtool.recommendation import QuerySession
from sidtool.tokenizer.sid import ItemRows, Leaves
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy


@dataclass(frozen=True, eq=False)
class Rollouts:
    """n groups of G leaves of the trie, in each the one that the policy prefers first."""

    prompts: list[list[int]]
    """n prompts as token ids"""
    leaves: Leaves
    """(n, G): an arbitrary leaf where not `valid`"""
    valid: NDArray[np.bool_]
    """(n, G): False behind the last item of a group, where fewer than G could be recommended"""


@dataclass(frozen=True, eq=False)
class GroupMaker:
    """Makes groups for examples by their number."""

    session: QuerySession
    policy: Policy
    examples: RlExamples
    size: int
    """G, the items of a group"""

    def target_leaves(self, numbers: NDArray[np.int64]) -> Leaves:
        """(n,): the leaf of each example's target."""
        trie = self.session.trie
        return trie.leaves(trie.positions_of(ItemRows(self.examples.targets[numbers])))

    def make(self, model: Any, numbers: NDArray[np.int64]) -> Rollouts:
        """The groups of examples, under a model that holds no gradient meanwhile."""
        queries = [self.examples.query(self.session, number) for number in numbers.tolist()]
        leaves = np.full((len(queries), self.size), -1, dtype=np.int64)
        results = self.session.search(model, queries, k=self.size, num_beams=self.size)
        for row, result in zip(leaves, results, strict=True):
            row[: len(result.leaves)] = result.leaves
        prompts = [list(query.prompt) for query in queries]
        return Rollouts(prompts, Leaves(np.maximum(leaves, 0)), leaves >= 0)


class ExampleNumbers:
    """n examples, as TRL reads them: the prompt is the number of the example."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, number: int) -> dict[str, str]:
        return {"prompt": str(number)}


class EpochSampler(RepeatSampler):
    """TRL's sampler with an order that follows from the seed and the epoch alone: that of TRL draws
    one order after the other, so a resumed run would repeat the first."""

    def __init__(self, trainer: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._trainer = trainer

    def __iter__(self) -> Any:
        if self.shuffle:
            epoch = int(self._trainer.state.epoch or 0)
            state = np.random.SeedSequence([self.seed, epoch]).generate_state(1)
            self.generator.manual_seed(int(state[0]))
        return super().__iter__()


class WholeGenerations(TrainerCallback):
    """Moves validations and checkpoints to the end of a generation of groups, as a run that resumes
    within one would make its groups with other weights."""

    def __init__(self, cycle: int) -> None:
        self._cycle = cycle
        self._evaluate = False
        self._save = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold back what is due until the cycle of steps ends."""
        self._evaluate |= control.should_evaluate
        self._save |= control.should_save
        ends = state.global_step % self._cycle == 0 or state.global_step >= state.max_steps
        control.should_evaluate = self._evaluate and ends
        control.should_save = self._save and ends
        if ends:
            self._evaluate = self._save = False
