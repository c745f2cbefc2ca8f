"""TRL's GRPOTrainer on groups of items: groups from the beam through `rollout_func`,
log-probabilities normalized over the trie, and a joint cross-entropy of the targets. The
objectives, clipping, divergence from the start, schedules, distribution and resumption are those of
the parent classes."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig
from trl.trainer.utils import RepeatSampler, split_tensor_dict

from sidtool.model import LoadedModel
from sidtool.model.contract import Selection
from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions
from sidtool.training.loop.machine import class_forward
from sidtool.training.loop.watched import WatchedTrainer
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.judge import Judge, JudgedTrainer
from sidtool.training.reinforcement.objective import GroupObjective
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.rewards.reward import GroupReward, Groups, lacks_signal
from sidtool.training.reinforcement.settings import RlOptions


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


def first_items(trie: Trie, leaves: Leaves) -> ItemRows:
    """(...) leaves -> the bundle's row of the first item of each."""
    positions = leaves if trie.leaf_start is None else trie.leaf_start[leaves].astype(np.int64)
    return trie.item_rows(SidPositions(positions))


class GroupTrainer(WatchedTrainer, JudgedTrainer, GroupObjective):
    """Trains a policy on groups of items.

    `write_contract` writes contract and bundle into a model folder. `reference` is the frozen start
    with its policy, if the objective needs one."""

    def __init__(
        self,
        options: RlOptions,
        loaded: LoadedModel,
        args: GRPOConfig,
        *,
        write_contract: Callable[[Path, Selection | None], object],
        maker: GroupMaker,
        reward: GroupReward,
        reference: tuple[Any, Policy] | None,
        judge: Judge,
        refuses_worse_slices: bool,
        callbacks: list[TrainerCallback],
    ) -> None:
        # TRL would load the reference again from a hub or a folder, which may hold adapters
        beta = args.beta
        args.beta = 0.0
        # TRL requires a datasets.Dataset: give it one example, then replace it
        placeholder = Dataset.from_dict({"prompt": ["0"]})
        with warnings.catch_warnings():
            # `rollout_func` is experimental in TRL: pyproject.toml limits its versions
            warnings.simplefilter("ignore")
            super().__init__(
                model=loaded.model,
                reward_funcs=[_reward_of_row],
                args=args,
                train_dataset=placeholder,
                eval_dataset=placeholder,
                processing_class=loaded.tokenizer,
                callbacks=callbacks,
                rollout_func=self._roll_out,
            )
        self.args.beta = self.beta = beta
        # the log-probabilities come without a loss of the router
        self.aux_loss_enabled = False
        self.train_dataset = ExampleNumbers(len(maker.examples))
        self.remove_callback(PrinterCallback)
        self.maker = maker
        self.policy = maker.policy
        self.options = options
        self._reward = reward
        self.judge = judge
        self.refuses_worse_slices = refuses_worse_slices
        self.write_contract = write_contract
        self.reference_policy = None
        if reference is not None:
            self.ref_model, self.reference_policy = reference
        cycle = args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps
        self.add_callback(WholeGenerations(max(1, cycle)))
        self._buffered_inputs: Any = None
        self._rollouts: Rollouts | None = None
        self.recent = defaultdict(list)
        # tokens of prompts and groups, groups
        self.n_seen = torch.zeros(2, dtype=torch.int64, device=args.device)

    # ---- groups ----

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's sampler, with an order that follows from the seed and the epoch alone."""
        return EpochSampler(
            self,
            data_source=self.train_dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=bool(self.shuffle_dataset),
            seed=self.args.seed,
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """A batch of whole groups. TRL shuffles items across the steps of a generation; here the
        items of a group stay together, as they share their prompt."""
        if self._buffered_inputs is None:
            # a resumed run begins in the middle of the count of steps
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
        every = self.args.steps_per_generation * self.num_iterations
        if self._step % every == 0 or self._buffered_inputs is None:
            scored = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(scored, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _roll_out(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """TRL's `rollout_func`: `prompts` are numbers of examples, each as often as a group has
        items. Returns the n * G items as TRL's rows, with a mask of the codes that the policy
        learns."""
        size = self.num_generations
        numbers = np.array([int(prompt) for prompt in prompts[::size]], dtype=np.int64)  # (n,)
        model = self.accelerator.unwrap_model(self.model)
        with class_forward(model), self.accelerator.autocast():
            rollouts = self.maker.make(model, numbers)
        self._rollouts = rollouts
        trie = self.maker.session.trie
        examples = self.maker.examples
        items = first_items(trie, rollouts.leaves)  # (n, G)
        groups = Groups(
            histories=[examples.history(number) for number in numbers.tolist()],
            items=np.where(rollouts.valid, items, -1),
            targets=examples.targets[numbers],
            fields=list(map(examples.fields_before, numbers.tolist())),
        )
        rewards = self._reward(groups)  # (n, G)
        dead = lacks_signal(rewards, rollouts.valid)
        self.recent["reward"].append(float(rewards[rollouts.valid].mean()))
        self.recent["dead_groups"].append(float(dead.mean()))
        self.count(sum(map(len, rollouts.prompts)), len(numbers))
        codes = trie.leaf_codes(Leaves(rollouts.leaves.ravel()))  # (n * G, levels)
        learned = np.repeat(rollouts.valid.ravel()[:, None], trie.levels, axis=1)
        scored = np.where(rollouts.valid, rewards, np.nan).ravel().tolist()
        return {
            "prompt_ids": [prompt for prompt in rollouts.prompts for _ in range(size)],
            "completion_ids": self.maker.session.tokens.ids(codes, begin_end_tokens=False).tolist(),
            "logprobs": None,
            # TRL ignores an item whose reward is None
            "reward": [None if math.isnan(value) else value for value in scored],
            "env_mask": learned.astype(np.int64).tolist(),
        }

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """TRL's batch, with the targets."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.options.sft_weight:
            numbers = [int(row["prompt"]) for row in inputs[:: self.num_generations]]
            targets = self.maker.target_leaves(np.array(numbers))
            target_codes = self.maker.session.trie.leaf_codes(targets)
            # for a batch that is split by rows
            of_rows = np.repeat(target_codes.astype(np.int64), self.num_generations, axis=0)
            output["target_codes"] = torch.from_numpy(of_rows).to(self.args.device)
        return output

    def count(self, tokens: int, groups: int) -> None:
        """Count the tokens of the prompts of some groups."""
        self.n_seen += torch.tensor([tokens, groups]).to(self.n_seen.device)


def _reward_of_row(reward: Sequence[float], **_: Any) -> list[float]:
    """TRL's reward function: `_roll_out` computed the rewards of whole groups."""
    return list(reward)


# ---- what makes a run that resumes equal to one that was not stopped: the order of examples,
# and when checkpoints are due ----


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

    def __init__(self, trainer: GroupTrainer, **arguments: Any) -> None:
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
