"""Preference learning on lists, in rounds: the best list that the model wrote for a history against
the worst, by a reward (OneRec's iterative preference alignment, arXiv:2502.18965).

An epoch is a round: its pairs are written by the model with which it begins, which is also what the
policy is compared with. Settings, validation, checkpoints and resumption are those of groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from transformers import TrainerCallback

from sidtool.base.errors import DataError
from sidtool.data.split import Example
from sidtool.evaluation import Measurement
from sidtool.evaluation.lists import recommendable_rows
from sidtool.recommendation import Query
from sidtool.tokenizer.sid import ItemRows
from sidtool.training.reinforcement.pairs import (
    ListPair,
    ListWriter,
    load_pairs,
    save_pairs,
    stack_pairs,
)
from sidtool.training.reinforcement.rewards.kinds import list_recall
from sidtool.training.reinforcement.rewards.reward import Groups, Matrix, RewardContext
from sidtool.training.reinforcement.trainer import GroupTrainer

REFERENCE_FILE = "reference.safetensors"
"""The weights of the reference of a round, in each checkpoint."""


class ListTrainer(GroupTrainer):
    """Trains a policy on pairs of lists."""

    def __init__(
        self, *arguments: Any, lists: ListWriter, validation: "ListValidation", **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self.lists = lists
        self.validation = validation
        self.of_round: dict[int, ListPair] = {}
        self.add_callback(_RoundCallback(self))

    def begin_round(self) -> None:
        """The policy of now writes the lists of the next round, and is its reference."""
        policy = self.accelerator.unwrap_model(self.model)
        self.ref_model.load_state_dict(policy.state_dict())
        self.of_round = {}

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """A batch of pairs, made once per example and round, whose rewards are logged."""
        # each example has `num_generations` rows, and its number in place of a prompt
        numbers = [int(row["prompt"]) for row in inputs[:: self.num_generations]]
        new = [number for number in dict.fromkeys(numbers) if number not in self.of_round]
        if new:
            assert self.reference is not None
            with self.accelerator.autocast():
                self.of_round |= self.lists.pairs(self.reference, self.examples, new)
        pairs = [self.of_round[number] for number in numbers]
        self.count(sum(len(pair.prompt) for pair in pairs), len(numbers))
        self.recent["reward"] += [float(pair.mean_reward) for pair in pairs]
        is_dead = [float(pair.rewards[0] == pair.rewards[1]) for pair in pairs]
        self.recent["dead_groups"] += is_dead
        batch = stack_pairs(pairs, self.num_generations)
        return {name: tensor.to(self.args.device) for name, tensor in batch.items()}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_model(self.ref_model, str(folder / REFERENCE_FILE))

    def _save_rng_state(self, output_dir: str) -> None:
        """Every process saves the pairs that it made, beside its random state."""
        if self.of_round:
            save_pairs(self.of_round, self._pairs_file(Path(output_dir)))
        super()._save_rng_state(output_dir)

    def _pairs_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"groups_{self.args.process_index}.safetensors"

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoint = Path(resume_from_checkpoint)
        load_model(self.ref_model, str(checkpoint / REFERENCE_FILE))
        if self._pairs_file(checkpoint).exists():
            self.of_round = load_pairs(self._pairs_file(checkpoint))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The preference of the better list, and the cross-entropy of the targets."""
        once = {name: tensor[::2] for name, tensor in inputs.items()}
        n_lists = 3 if self.options.sft_weight else 2
        with self.accelerator.autocast():
            log_probs = self.policy.list_log_probs(
                model,
                once["prompt_ids"].repeat_interleave(n_lists, dim=0),
                once["prompt_mask"].repeat_interleave(n_lists, dim=0),
                once["codes"][:, :n_lists].flatten(0, 1),
                once["valid"][:, :n_lists].flatten(0, 1),
            )
        by_list = log_probs.view(-1, n_lists, *log_probs.shape[1:])  # (pairs, lists, m, levels)
        list_log_probs = by_list.sum((-2, -1))
        is_preference = once["rewards"][:, 0] > once["rewards"][:, 1]
        losses = preference_loss(
            list_log_probs[:, 0],
            list_log_probs[:, 1],
            once["reference"][:, 0],
            once["reference"][:, 1],
            is_preference,
            beta=self.beta,
        )
        preferred = losses.detach()[is_preference] < math.log(2)
        if len(preferred):
            self._metrics["train"]["preferred"].append(float(preferred.float().mean()))
        loss = losses.mean()
        if self.options.sft_weight:
            cross_entropy = -by_list[:, 2][once["valid"][:, 2]].mean()
            self._metrics["train"]["sft_loss"].append(float(cross_entropy.detach()))
            loss = loss + self.options.sft_weight * cross_entropy
        return loss / self.current_gradient_accumulation_steps

    def _measure(self) -> Measurement:
        """As the parent class, with what the lists of the validation users are like."""
        measured = super()._measure()
        values = self.validation.values(self.on_every_process(self.validation.lists))
        return measured.with_lists(self.validation.users, values)


def preference_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_reference: torch.Tensor,
    rejected_reference: torch.Tensor,
    is_preference: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """(n,): the loss of DPO, of preferring one sequence to another: -log sigmoid(r_chosen -
    r_rejected), with r = beta * (log pi - log pi_reference).

    All are (n,), log-probabilities of whole sequences. A pair that is no preference has the loss
    0."""
    gaps = beta * (rejected - rejected_reference) - beta * (chosen - chosen_reference)
    gaps = gaps.masked_fill(~is_preference, -torch.inf)
    # -log sigmoid(-x) is log(exp(0) + exp(x))
    return torch.stack([torch.zeros_like(gaps), gaps], dim=1).logsumexp(dim=1)


class _RoundCallback(TrainerCallback):
    """Begins a round with each epoch but the first, and none where a run resumes within one."""

    def __init__(self, trainer: ListTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first batch of an epoch is made, or the first after a resumption."""
        epoch = float(state.epoch or 0)
        if epoch > 0 and abs(epoch - round(epoch)) < 1e-6:
            self._trainer.begin_round()


@dataclass(frozen=True, eq=False)
class ListValidation:
    """The validation users whose held-out items a list can have."""

    writer: ListWriter
    users: tuple[str, ...]
    queries: tuple[Query, ...]
    groups: Groups
    """without answers; targets are the items of each user's held-out session, and fields what is
    known before it"""

    @classmethod
    def of(cls, writer: ListWriter, examples: Sequence[Example]) -> Self:
        """Look up the items of examples; those without an active one of the bundle are left out.
        Raises DataError if none is left."""
        session, items = writer.session, writer.session.bundle.items
        exclude_seen = bool(writer.options.exclude_seen)
        entries = []
        for example in examples:
            rows = items.rows(example.history)
            in_bundle = np.flatnonzero(rows >= 0)
            history = ItemRows(rows[in_bundle])
            distinct = list(dict.fromkeys(example.items))
            rows = recommendable_rows(session.bundle, distinct, example, exclude_seen=exclude_seen)
            targets = rows[rows >= 0]
            if len(targets):
                item_fields = example.fields.take(in_bundle.tolist())
                denied = session.leaf_filter(None, [history] if exclude_seen else [])
                prompt = session.from_history(history, item_fields, user=example.user)
                entries.append((example.user, Query(prompt, denied), history, targets, item_fields))
        if not entries:
            raise DataError("no validation user has a held-out item that a list may have")
        users, queries, histories, targets_of_users, fields = zip(*entries, strict=True)
        # the weights of held-out items are not known: each counts alike
        values = [np.ones(len(targets)) for targets in targets_of_users]
        no_answers = np.empty((len(users), 0, writer.length), dtype=np.int64)
        groups = Groups(histories, no_answers, targets_of_users, fields, values)
        return cls(writer, users, queries, groups)

    def lists(self, model: Any, process: int = 0, processes: int = 1) -> NDArray[np.int64]:
        """(n, m) bundle rows: the lists of every `processes`-th user from `process` on."""
        queries = self.queries[process::processes]
        num_beams = self.writer.options.eval_num_beams
        return self.writer.write(model, queries, num_beams=num_beams)[:, 0]

    def values(self, shares: Sequence[NDArray[np.int64]]) -> Matrix:
        """(n, 2): recall and reward of what `lists` returned on each process, in their order."""
        lists = np.empty((len(self.users), 1, self.writer.length), dtype=np.int64)
        for process, share in enumerate(shares):
            lists[process :: len(shares), 0] = share
        groups = replace(self.groups, items=lists)
        recall = list_recall(groups, RewardContext(self.writer.session.bundle))
        return np.concatenate([recall, self.writer.reward(groups)], axis=1)
