"""TRL's GRPOTrainer on groups of items: groups from the beam through `rollout_func`,
log-probabilities normalized over the trie, and a joint cross-entropy of the targets. The
objectives, clipping, divergence from the start, schedules, distribution and resumption are those of
the parent classes."""

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from sidtool.evaluation import Judge, Measurement
from sidtool.model import LoadedModel
from sidtool.recommendation import QuerySession
from sidtool.tokenizer.sid import Leaves, SidPositions
from sidtool.training.loop.machine import class_forward
from sidtool.training.loop.watched import WatchedTrainer
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.rewards.reward import GroupReward, lacks_signal
from sidtool.training.reinforcement.rollouts import EpochSampler, WholeGenerations
from sidtool.training.reinforcement.settings import RlOptions

EARLY_CLIP = 0.1
"""The delta of ECPO: ratios are at most 1 + epsilon_high + delta at negative advantages."""
_GAIN_OF_SLICE = re.compile(r"eval_(?P<metric>.+)_gain_(?P<group>.+)")
"""The key of a metric's difference from the start on a slice."""


class GroupTrainer(WatchedTrainer, GRPOTrainer):
    """Trains a policy on groups of items. The losses are those of GRPOTrainer, whose batches have
    one row per item, for batches of whole groups. Validates by recommending, and does not select
    what is worse than the start on a slice.

    `reference` is the policy of the frozen start, if the objective needs one."""

    def __init__(
        self,
        options: RlOptions,
        loaded: LoadedModel,
        args: GRPOConfig,
        *,
        session: QuerySession,
        policy: Policy,
        examples: RlExamples,
        reward: GroupReward,
        reference: Policy | None,
        judge: Judge,
        refuses_worse_slices: bool,
        callbacks: list[TrainerCallback],
    ) -> None:
        # TRL would load the reference again from a hub or a folder, which may hold adapters
        beta = args.beta
        args.beta = 0.0
        # the prompt of an example is its number
        numbers = pa.array(np.arange(len(examples))).cast(pa.string())
        prompts = Dataset.from_dict({"prompt": numbers})
        with warnings.catch_warnings():
            # `rollout_func` is experimental in TRL: pyproject.toml limits its versions
            warnings.simplefilter("ignore")
            super().__init__(
                model=loaded.model,
                # `_roll_out` computes the rewards of whole groups
                reward_funcs=[lambda reward, **_: list(reward)],
                args=args,
                train_dataset=prompts,
                eval_dataset=prompts,
                processing_class=loaded.tokenizer,
                callbacks=callbacks,
                rollout_func=self._roll_out,
            )
        self.args.beta = self.beta = beta
        # the log-probabilities come without a loss of the router
        self.aux_loss_enabled = False
        self.remove_callback(PrinterCallback)
        self.session = session
        self.policy = policy
        self.examples = examples
        self.options = options
        self._reward = reward
        self.judge = judge
        self.refuses_worse_slices = refuses_worse_slices
        self.reference = reference
        if reference is not None:
            self.ref_model = reference.network
        cycle = args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps
        self.add_callback(WholeGenerations(max(1, cycle)))
        self._start: Measurement | None = None
        self._buffered_inputs: Any = None
        self._loss_inputs: dict[str, Any] | None = None
        self._target_log_probs: torch.Tensor | None = None
        # what was recorded since the last validation
        self.recent: defaultdict[str, list[float]] = defaultdict(list)
        # tokens of prompts and groups, groups
        self.n_seen = torch.zeros(2, dtype=torch.int64, device=args.device)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's sampler, a prompt for each item of a group, in an order that a resumed run has."""
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
        numbers = [int(prompt) for prompt in prompts[::size]]
        session, trie = self.session, self.session.trie
        queries = [self.examples.query(session, number) for number in numbers]
        model = self.accelerator.unwrap_model(self.model)
        with class_forward(model), self.accelerator.autocast():
            # (n, G), the items that the policy prefers first, -1 where there are fewer
            sampled_leaves = session.rank(
                model, queries, k=size, num_beams=size, window=len(queries)
            ).leaves
        valid = sampled_leaves >= 0
        leaves = Leaves(np.maximum(sampled_leaves, 0))  # (n, G): any leaf where not valid
        positions = leaves if trie.leaf_start is None else trie.leaf_start[leaves].astype(np.int64)
        items = trie.item_rows(SidPositions(positions))  # (n, G): the first item of each leaf
        groups = self.examples.groups(numbers, np.where(valid, items, -1))
        rewards = self._reward(groups)  # (n, G)
        dead = lacks_signal(rewards, valid)
        self.recent["reward"].append(float(rewards[valid].mean()))
        self.recent["dead_groups"].append(float(dead.mean()))
        self.count(sum(len(query.prompt) for query in queries), len(numbers))
        codes = trie.leaf_codes(Leaves(leaves.ravel()))  # (n * G, levels)
        learned = np.repeat(valid.ravel()[:, None], trie.levels, axis=1)
        scored = np.where(valid, rewards, np.nan).ravel().tolist()
        return {
            "prompt_ids": [list(query.prompt) for query in queries for _ in range(size)],
            "completion_ids": session.tokens.ids(codes, begin_end_tokens=False).tolist(),
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
            target_codes = self.session.bundle.items.codes[self.examples.targets[numbers]]
            # for a batch that is split by rows
            row_codes = np.repeat(target_codes.astype(np.int64), self.num_generations, axis=0)
            output["target_codes"] = torch.from_numpy(row_codes).to(self.args.device)
        return output

    def count(self, tokens: int, groups: int) -> None:
        """Count the tokens of the prompts of some groups."""
        self.n_seen += torch.tensor([tokens, groups]).to(self.n_seen.device)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(rows, levels) log-probabilities and entropies of the codes, under the policy; rows are
        whole groups. In a step, the targets of the groups are scored with them."""
        policy = self.reference if model is self.ref_model else self.policy
        assert policy is not None
        inputs = self._loss_inputs
        targets = None if inputs is None else inputs.get("target_codes")
        size, levels = self.num_generations, logits_to_keep
        prompts, mask = input_ids[::size, :-levels], attention_mask[::size, :-levels]
        codes = policy.codes(input_ids[:, -levels:]).view(-1, size, levels)
        if targets is not None:
            codes = torch.cat([codes, targets[::size, None]], dim=1)
        n_groups = (batch_size or len(input_ids)) // size
        batches = (part.split(n_groups) for part in (prompts, mask, codes))
        scored = []
        for batch in zip(*batches, strict=True):
            with self.accelerator.autocast():
                scored.append(policy.scores(model, *batch))
        log_probs, entropies = (torch.cat(parts) for parts in zip(*scored, strict=True))
        item_log_probs = log_probs[:, :size].reshape(-1, levels)
        if inputs is not None:
            target_log_probs = None if targets is None else log_probs[:, size].contiguous()
            self._target_log_probs = target_log_probs
            old = inputs.get("old_per_token_logps")
            # without old ones they are those of this step: every ratio is 1
            if self.options.algorithm == "ecpo" and old is not None:
                inputs["old_per_token_logps"] = clip_early(
                    item_log_probs,
                    old,
                    inputs["advantages"][:, None],
                    inputs["tool_mask"],
                    bound=1 + self.epsilon_high + EARLY_CLIP,
                    level=self.importance_sampling_level,
                )
        return item_log_probs, entropies[:, :size].reshape(-1, levels), None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss and the cross-entropy of the targets."""
        # a copy: a buffered batch is used again in the next iteration
        self._loss_inputs = dict(inputs)
        try:
            loss = super()._compute_loss(model, self._loss_inputs)
        finally:
            self._loss_inputs = None
        if divergence := self._metrics["train"].get("kl"):
            self.recent["kl"].append(divergence[-1])
        if self.options.sft_weight and self._target_log_probs is not None:
            cross_entropy = -self._target_log_probs.mean()
            self._metrics["train"]["sft_loss"].append(float(cross_entropy.detach()))
            weight = self.options.sft_weight / self.current_gradient_accumulation_steps
            loss = loss + weight * cross_entropy
        return loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Measure the start, which the model is until here, and train."""
        self.start_clock()
        self._start = self._measure()
        self.log({f"start_{name}": value for name, value in self._start.metrics.items()})
        return super().train(*args, **kwargs)

    @property
    def start_value(self) -> float | None:
        """The metric of the start; None if this process did not train."""
        return None if self._start is None else self._start.metrics[self.judge.metric]

    def validation_figures(self) -> Mapping[str, float]:
        """Metrics of recommending to the validation users, how they differ from those of the start,
        and what the groups since the last validation were like."""
        assert self._start is not None
        measured = self._measure()
        name = self.judge.metric
        figures = dict(measured.metrics)
        figures[f"{name}_gain"] = measured.metrics[name] - self._start.metrics[name]
        worse = self.judge.worse_slices(self._start, measured)
        figures["worse_slices"] = float(len(worse))
        for (metric, group), difference in worse.items():
            figures[f"{metric}_gain_{group}"] = difference.mean
        # the means over all processes of what was recorded since the last validation
        for recorded in ("reward", "dead_groups", "kl"):
            values = self.recent.pop(recorded, [])
            sums = torch.tensor([sum(values), len(values)], dtype=torch.float64)
            total, count = self.accelerator.reduce(sums.to(self.args.device)).tolist()
            if count:
                figures[recorded] = total / count
        return figures

    def _measure(self) -> Measurement:
        return self.judge.measure(self.on_every_process(self.judge.rank))

    def on_every_process(self, measure: Callable[[Any, int, int], Any]) -> list[Any]:
        """What `measure` returns of the policy, a process and the number of processes on each
        process, in their order."""
        model = self.accelerator.unwrap_model(self.model)
        with class_forward(model), torch.no_grad(), self.accelerator.autocast():
            share = measure(model, self.args.process_index, self.args.world_size)
        return list(gather_object([share]))

    def worse_slices(self) -> str:
        """The slices on which the last validated checkpoint was worse than the start, by how
        much."""
        entries = [entry for entry in self.state.log_history if "eval_worse_slices" in entry]
        last = entries[-1] if entries else {}
        gains = ((_GAIN_OF_SLICE.fullmatch(name), value) for name, value in last.items())
        return ", ".join(
            f"{match['group']} ({match['metric']} {value:+.4f})" for match, value in gains if match
        )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As the parent class, but a checkpoint that is worse on a slice is never the best."""
        if self.refuses_worse_slices and metrics.get("eval_worse_slices"):
            return False
        return bool(super()._determine_best_metric(metrics, trial))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log without what TRL measures of texts, since every item has the same number of tokens,
        and of time, which another run would not repeat."""
        for mode in ("train", "eval"):
            for name in list(self._metrics[mode]):
                if name.startswith(("completions/", "rewards/", "num_tokens", "step_time")):
                    del self._metrics[mode][name]
        super().log(logs, start_time)


def clip_early(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    bound: float,
    level: str = "token",
) -> torch.Tensor:
    """(n, L): old log-probabilities by which no importance ratio exceeds `bound` where the
    advantage is negative: max(pi / bound, pi_old), without a gradient.

    ECPO (arXiv:2506.13695) so keeps the gradient of such an item that has become more likely, but
    bounds its size; plain clipping does not bound ratios at negative advantages. `advantages` are
    (n, 1), `mask` is (n, L). At the level "sequence", where TRL's ratio is that of the mean
    log-probability, all codes of a sequence are shifted alike."""
    log_probs = log_probs.detach()
    log_ratio = log_probs - old_log_probs
    if level == "sequence":
        log_ratio = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(
            1
        )
    excess = (log_ratio - math.log(bound)).clamp_min(0)
    return old_log_probs + torch.where(advantages < 0, excess, torch.zeros_like(excess))
