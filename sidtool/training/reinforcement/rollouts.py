"""The order of examples, and when checkpoints are due: a run that resumes is equal to one that was
not stopped."""

from typing import Any

import numpy as np
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler


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
