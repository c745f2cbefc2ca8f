"""Groups of items for training examples. The order of examples, and when checkpoints are due, make
a run that resumes equal to one that was not stopped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler

from sidtool.recommendation import Query, QuerySession
from sidtool.tokenizer.sid import ItemRows, Leaves
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy


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

    def make(self, model: Any, numbers: NDArray[np.int64]) -> tuple[list[Query], NDArray[np.int64]]:
        """The queries of n examples, and (n, G) leaves of the trie, the one that the policy prefers
        first, -1 where fewer than G can be recommended; without a gradient."""
        queries = [self.examples.query(self.session, number) for number in numbers.tolist()]
        leaves = np.full((len(queries), self.size), -1, dtype=np.int64)
        results = self.session.search(model, queries, k=self.size, num_beams=self.size)
        for row, result in zip(leaves, results, strict=True):
            row[: len(result.leaves)] = result.leaves
        return queries, leaves


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
