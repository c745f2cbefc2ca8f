"""Preference learning on lists, in rounds: the best list that the model wrote for a history against
the worst, by a reward (OneRec's iterative preference alignment, arXiv:2502.18965).

An epoch is a round: its pairs are written by the model with which it begins, which is also what the
policy is compared with. Settings, validation, checkpoints and resumption are those of groups."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from transformers import TrainerCallback

from sidtool.base.errors import DataError
from sidtool.data import Fields
from sidtool.data.split import Example
from sidtool.recommendation import Query, QuerySession
from sidtool.recommendation.search import ListOptions
from sidtool.tokenizer.sid import ItemRows
from sidtool.training.loop.machine import class_forward
from sidtool.training.reinforcement.examples import ListExamples
from sidtool.training.reinforcement.groups import NO_SPREAD, PromptRecord
from sidtool.training.reinforcement.judge import ListValues, Measurement
from sidtool.training.reinforcement.objective import preference_loss
from sidtool.training.reinforcement.policy import Policy, pad_left
from sidtool.training.reinforcement.rewards.hits import list_recall
from sidtool.training.reinforcement.rewards.reward import ListGroups, Matrix, RewardContext
from sidtool.training.reinforcement.settings import RlOptions
from sidtool.training.reinforcement.trainer import GroupTrainer

ListRewardFunction = Callable[[ListGroups], Matrix]
"""Lists -> (n, G) rewards."""


@dataclass(frozen=True, eq=False)
class ListPair(PromptRecord):
    """Two lists for one example, the better first, and the list that really followed."""

    codes: torch.Tensor
    """(3, m, L): of the better list, the worse one and the targets"""
    valid: torch.Tensor
    """(3, m) bool: False behind the last item"""
    reference: torch.Tensor
    """(2,): log-probability of either list under the model that wrote them"""
    rewards: torch.Tensor
    """(2,): equal rewards are no preference"""
    mean_reward: torch.Tensor
    """(): of all candidates"""


def write_lists(
    session: QuerySession,
    model: Any,
    queries: Sequence[Query],
    *,
    length: int,
    num_beams: int,
    n_lists: int = 1,
) -> NDArray[np.int64]:
    """(n, n_lists, length) bundle rows of the lists that a model writes for each query, -1 where
    there is no item."""
    found = session.search_lists(
        model,
        queries,
        length=length,
        num_beams=num_beams,
        options=ListOptions("beam"),
        n_lists=n_lists,
    )
    lists = np.full((len(queries), n_lists, length), -1, dtype=np.int64)
    for row, candidates in enumerate(found):
        for place, one in enumerate(candidates):
            rows = session.trie.item_rows(one.positions)
            lists[row, place, : len(rows)] = rows
    return lists


@dataclass(frozen=True, eq=False)
class PairMaker:
    """Makes pairs for examples by their number."""

    session: QuerySession
    """of lists"""
    examples: ListExamples
    reward: ListRewardFunction
    length: int
    """items per list"""
    options: RlOptions

    @torch.no_grad()
    def make(self, model: Any, policy: Policy, numbers: Sequence[int]) -> dict[int, ListPair]:
        """The pairs of examples by their number, from lists that a model writes; `policy` is its
        own."""
        examples = self.examples
        queries = [examples.query(self.session, number) for number in numbers]
        n_lists = self.options.candidate_lists
        lists = write_lists(
            self.session,
            model,
            queries,
            length=self.length,
            num_beams=n_lists,
            n_lists=n_lists,
        )
        values = examples.list_values
        groups = ListGroups(
            [examples.history(number) for number in numbers],
            lists,
            [examples.list_targets[number] for number in numbers],
            None if values is None else [values[number] for number in numbers],
            list(map(examples.fields_before, numbers)),
        )
        # a place without a list is neither the best nor the worst
        rewards = np.where((lists >= 0).any(axis=-1), self.reward(groups), np.nan)
        chosen = self._chosen(lists, rewards, groups.targets)  # (n, 3, m) rows
        codes = self.session.bundle.items.codes[np.maximum(chosen, 0)].astype(np.int64)
        code_tensor = torch.from_numpy(codes)  # (n, 3, m, L)
        valid = torch.from_numpy(chosen >= 0)
        prompts = [torch.tensor(query.prompt) for query in queries]
        ids, mask = pad_left(prompts)
        inputs = (
            ids.repeat_interleave(2, dim=0),
            mask.repeat_interleave(2, dim=0),
            code_tensor[:, :2].flatten(0, 1),
            valid[:, :2].flatten(0, 1),
        )
        log_probs = policy.list_log_probs(model, *(tensor.to(model.device) for tensor in inputs))
        reference = log_probs.sum((-2, -1)).view(-1, 2).cpu()
        pairs = {}
        for row, number in enumerate(numbers):
            of_prompt = rewards[row][~np.isnan(rewards[row])]
            best, worst, mean = 0.0, 0.0, 0.0
            if len(of_prompt):
                best, worst, mean = of_prompt.max(), of_prompt.min(), of_prompt.mean()
            if best - worst <= NO_SPREAD:  # equal but for rounding
                worst = best
            pairs[number] = ListPair(
                prompts[row],
                code_tensor[row],
                valid[row],
                reference[row],
                torch.tensor([best, worst], dtype=torch.float64),
                torch.tensor(mean, dtype=torch.float64),
            )
        return pairs

    def _chosen(
        self, lists: NDArray[np.int64], rewards: Matrix, targets: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """(n, 3, m) rows: the best list, the worst one and the targets. A prompt without any list
        has its targets in place of both."""
        chosen = np.full((len(lists), 3, self.length), -1, dtype=np.int64)
        for row, of_prompt in enumerate(rewards):
            following = targets[row][: self.length]
            chosen[row, :, : len(following)] = following
            if not np.isnan(of_prompt).all():
                chosen[row, 0] = lists[row, np.nanargmax(of_prompt)]
                # of equally bad lists, the one that the model finds likeliest
                chosen[row, 1] = lists[row, np.nanargmin(of_prompt)]
        return chosen


class ListTrainer(GroupTrainer):
    """Trains a policy on pairs of lists."""

    record_kind = ListPair

    def __init__(
        self, *arguments: Any, pairs: PairMaker, validation: "ListValidation", **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self.pairs = pairs
        self.validation = validation
        self.add_callback(_RoundCallback(self))

    def begin_round(self) -> None:
        """The policy of now writes the lists of the next round, and is its reference."""
        policy = self.accelerator.unwrap_model(self.model)
        self.ref_model.load_state_dict(policy.state_dict())
        self.records = {}

    def make_records(self, numbers: list[int]) -> dict[int, Any]:
        """The pairs of examples, by their number, for this round."""
        assert self.reference_policy is not None
        return self.pairs.make(self.ref_model, self.reference_policy, numbers)

    def stack(self, records: list[Any]) -> dict[str, torch.Tensor]:
        """A batch of pairs, whose rewards are logged."""
        self.recent["reward"] += [float(pair.mean_reward) for pair in records]
        is_dead = [float(pair.rewards[0] == pair.rewards[1]) for pair in records]
        self.recent["dead_groups"] += is_dead
        return super().stack(records)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The preference of the better list, and the cross-entropy of the targets."""
        once = {name: tensor[::2] for name, tensor in inputs.items()}
        n_lists = 3 if self.options.sft_weight else 2
        with self.accelerator.autocast():
            log_probs = self.maker.policy.list_log_probs(
                model,
                once["prompt_ids"].repeat_interleave(n_lists, dim=0),
                once["prompt_mask"].repeat_interleave(n_lists, dim=0),
                once["codes"][:, :n_lists].flatten(0, 1),
                once["valid"][:, :n_lists].flatten(0, 1),
            )
        by_list = log_probs.view(-1, n_lists, *log_probs.shape[1:])  # (pairs, lists, m, levels)
        of_lists = by_list.sum((-2, -1))
        is_preference = once["rewards"][:, 0] > once["rewards"][:, 1]
        losses = preference_loss(
            of_lists[:, 0],
            of_lists[:, 1:2],
            once["reference"][:, 0],
            once["reference"][:, 1:2],
            is_preference.unsqueeze(1),
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
        model = self.accelerator.unwrap_model(self.model)
        with class_forward(model), torch.no_grad(), self.accelerator.autocast():
            share = self.validation.lists(model, self.args.process_index, self.args.world_size)
        values = self.validation.values(gather_object([share]))
        return measured.with_lists(ListValues(self.validation.users, values))


class _RoundCallback(TrainerCallback):
    """Begins a round with each epoch but the first; a run that resumes within one goes on with
    it."""

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

    session: QuerySession
    """of lists"""
    users: tuple[str, ...]
    queries: tuple[Query, ...]
    histories: tuple[ItemRows, ...]
    targets: tuple[NDArray[np.int64], ...]
    """the items of each user's held-out session, as bundle rows"""
    fields: tuple[Fields, ...]
    """what is known before each session"""
    reward: ListRewardFunction
    length: int
    num_beams: int

    @classmethod
    def of(
        cls,
        session: QuerySession,
        examples: Sequence[Example],
        reward: ListRewardFunction,
        length: int,
        options: RlOptions,
    ) -> Self:
        """Look up the items of examples; those without an active one of the bundle are left out.
        Raises DataError if none is left."""
        items = session.bundle.items
        found = []
        for example in examples:
            rows = items.rows(example.history)
            in_bundle = np.flatnonzero(rows >= 0)
            history = ItemRows(rows[in_bundle])
            named = items.rows(example.items)
            following = named[named >= 0]
            following = following[session.bundle.is_active[following]]
            if options.exclude_seen:
                following = following[~np.isin(following, history)]
            if len(following):
                targets = np.array(list(dict.fromkeys(following.tolist())), dtype=np.int64)
                fields = example.fields.take(in_bundle.tolist())
                denied = session.leaf_filter(None, [history] if options.exclude_seen else [])
                prompt = session.from_history(history, fields, user=example.user)
                found.append((example.user, Query(prompt, denied), history, targets, fields))
        if not found:
            raise DataError("no validation user has a held-out item that a list may have")
        users, queries, histories, lists, known = zip(*found, strict=True)
        return cls(
            session, users, queries, histories, lists, known, reward, length, options.eval_num_beams
        )

    def lists(self, model: Any, process: int = 0, processes: int = 1) -> NDArray[np.int64]:
        """(n, m) bundle rows: the lists of every `processes`-th user from `process` on."""
        queries = self.queries[process::processes]
        lists = write_lists(
            self.session, model, queries, length=self.length, num_beams=self.num_beams
        )
        return lists[:, 0]

    def values(self, shares: Sequence[NDArray[np.int64]]) -> Matrix:
        """(n, 2): recall and reward of what `lists` returned on each process, in their order."""
        lists = np.empty((len(self.users), 1, self.length), dtype=np.int64)
        for process, share in enumerate(shares):
            lists[process :: len(shares), 0] = share
        # the weights of held-out items are not known: each counts alike
        values = [np.ones(len(rows)) for rows in self.targets]
        groups = ListGroups(self.histories, lists, self.targets, values, self.fields)
        recall = list_recall(groups, RewardContext(self.session.bundle))
        return np.concatenate([recall, self.reward(groups)], axis=1)
