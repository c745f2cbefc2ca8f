"""The order of examples, the random numbers of a step, and when checkpoints are due: what makes a
run that resumes equal to one that was not stopped."""

from typing import Any, Protocol

import numpy as np
import torch
from transformers import TrainerCallback
from trl.trainer.utils import RepeatSampler


class HasEpoch(Protocol):
    """A trainer."""

    epoch: int
    """the epoch in progress, from 0"""


def step_generator(seed: int, step: int, process: int) -> torch.Generator:
    """A generator of the CPU for the groups of one step and process."""
    state = np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


class ExampleNumbers:
    """n examples, as TRL reads them: the prompt is the number of the example."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, number: int) -> dict[str, str]:
        return {"prompt": str(number)}


class EpochSampler(RepeatSampler):
    """TRL's sampler draws one order after the other, so a resumed run would repeat the first."""

    def __init__(self, trainer: HasEpoch, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._trainer = trainer

    def __iter__(self) -> Any:
        if self.shuffle:
            state = np.random.SeedSequence([self.seed, self._trainer.epoch]).generate_state(1)
            self.generator.manual_seed(int(state[0]))
        return super().__iter__()


class SamplerCallback(TrainerCallback):
    """Tells the sampler the epoch that begins or resumes."""

    def __init__(self, trainer: HasEpoch) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first batch of an epoch is made."""
        self._trainer.epoch = int(state.epoch or 0)


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
