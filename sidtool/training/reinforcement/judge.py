"""Judges a model in training against the one that it started from: validation metrics, and whether
it is worse on any slice of targets by training frequency."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from transformers import TrainerControl
from trl import GRPOTrainer

from sidtool.data.split import Example, UserSequence
from sidtool.evaluation import (
    SLICES,
    Difference,
    IndexedExamples,
    coverage,
    example_groups,
    example_queries,
    first_items,
    item_ranks,
    metric_names,
    metric_values,
    paired_differences,
    survival_names,
)
from sidtool.recommendation import Query, QuerySession, RankedQueries
from sidtool.tokenizer.sid import Leaves
from sidtool.training.loop.checkpoints import check_weights
from sidtool.training.loop.machine import class_forward
from sidtool.training.reinforcement.settings import LIST_METRICS, RlOptions

MIN_USERS = 10
"""A slice with fewer users is not judged: a bootstrap of so few underestimates its error."""
_GAIN_OF_SLICE = re.compile(r"eval_(?P<metric>.+)_gain_(?P<group>.+)")
"""The key of a metric's difference from the start on a slice."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """A model on the validation users."""

    metrics: Mapping[str, float]
    """hr@K, ndcg@K, mrr@K, coverage@K, and the survival of the target's prefix in the beam after
    each level"""
    values: NDArray[np.float64]
    """(n, metrics): the first three for each user"""
    lists: "ListValues | None" = None
    """of a model that is trained on lists"""

    def with_lists(self, lists: "ListValues") -> "Measurement":
        """The same, with the means of lists among the metrics."""
        means = dict(zip(LIST_METRICS, lists.values.mean(axis=0).tolist(), strict=True))
        return replace(self, metrics={**self.metrics, **means}, lists=lists)


@dataclass(frozen=True, eq=False)
class ListValues:
    """The lists of validation users."""

    users: tuple[str, ...]
    values: NDArray[np.float64]
    """(n, 2): LIST_METRICS of each user"""


@dataclass(frozen=True, eq=False)
class Judge:
    """A sample of validation users, in groups of which the slices are some."""

    session: QuerySession
    examples: IndexedExamples
    groups: Mapping[str, NDArray[np.float64]]
    metric: str
    """that decides, as hr@10, or one of LIST_METRICS"""
    num_beams: int

    @classmethod
    def of(
        cls,
        session: QuerySession,
        examples: Sequence[Example],
        events: Sequence[UserSequence],
        options: RlOptions,
    ) -> "Judge":
        """On these examples; `events` count how frequent an item is in training."""
        exclude_seen = bool(options.exclude_seen)
        indexed = IndexedExamples.of(session.bundle, examples, exclude_seen=exclude_seen)
        groups = example_groups(examples, events)
        metric = options.metric_for_best_model
        return cls(session, indexed, groups, metric, options.eval_num_beams)

    @property
    def k(self) -> int:
        """The cut-off of the metric of items."""
        return int(self._item_metric.partition("@")[2])

    @property
    def _item_metric(self) -> str:
        return "ndcg@10" if self.metric in LIST_METRICS else self.metric

    @cached_property
    def _queries(self) -> list[Query]:
        """The query of each example, which every measurement repeats."""
        return list(example_queries(self.session, self.examples))

    def rank(self, model: Any, process: int = 0, processes: int = 1) -> RankedQueries:
        """The K best leaves for every `processes`-th user from `process` on."""
        queries = self._queries[process::processes]
        return self.session.rank(
            model,
            queries,
            k=self.k,
            num_beams=max(self.k, self.num_beams),
            window=max(1, len(queries)),
        )

    def measure(self, ranked: Sequence[RankedQueries]) -> Measurement:
        """The measurement of what `rank` returned on each process, in their order."""
        n = len(self.examples.examples)
        leaves = np.empty((n, self.k), dtype=np.int64)
        survived = np.empty(n, dtype=np.int64)
        for process, share in enumerate(ranked):
            leaves[process :: len(ranked)] = share.leaves
            survived[process :: len(ranked)] = share.survived
        values = metric_values(item_ranks(self.examples, Leaves(leaves)), [self.k])
        metrics = dict(zip(metric_names([self.k]), values.mean(axis=0).tolist(), strict=True))
        items = first_items(self.examples, Leaves(leaves), self.k)
        metrics[f"coverage@{self.k}"] = coverage(items, len(self.session.bundle.active))
        names = survival_names(self.session.bundle.space.levels)
        for level, name in enumerate(names, start=1):
            metrics[name] = float((survived >= level).mean())
        return Measurement(metrics, values)

    def worse_slices(
        self, start: Measurement, current: Measurement
    ) -> dict[tuple[str, str], Difference]:
        """(metric, slice) -> difference, where a model is worse than the start beyond the 95%
        interval of the paired difference: the metric of items on the slices with enough users, and
        the recall of lists over all users."""
        users = [example.user for example in self.examples.examples]
        differences = paired_differences(
            metric_names([self.k]), current.values, start.values, users, self.groups
        )
        numbers = {name: np.flatnonzero(group) for name, group in self.groups.items()}
        n_users = {name: len({users[n] for n in of_group}) for name, of_group in numbers.items()}
        by_slice = {
            (self._item_metric, name): by_metric[self._item_metric]
            for name, by_metric in differences.items()
            if name in SLICES and n_users[name] >= MIN_USERS
        }
        if start.lists is not None and current.lists is not None:
            by_slice["list_recall", "all"] = paired_differences(
                LIST_METRICS, current.lists.values, start.lists.values, current.lists.users
            )["all"]["list_recall"]
        return {key: each for key, each in by_slice.items() if each.high < 0}


class JudgedTrainer(GRPOTrainer):
    """A trainer that validates by recommending, and does not select what is worse on a slice."""

    judge: Judge
    refuses_worse_slices: bool
    recent: defaultdict[str, list[float]]
    """what was recorded since the last validation"""
    _start: Measurement | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Measure the start, which the model is until here, and train."""
        self._start = self._measure()
        self.log({f"start_{name}": value for name, value in self._start.metrics.items()})
        return super().train(*args, **kwargs)

    @property
    def start_value(self) -> float | None:
        """The metric of the start; None if this process did not train."""
        return None if self._start is None else self._start.metrics[self.judge.metric]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of recommending to the validation users, how they differ from those of the start,
        and what the groups since the last validation were like."""
        assert self._start is not None
        check_weights(self)
        measured = self._measure()
        name = self.judge.metric
        metrics = {f"eval_{key}": value for key, value in measured.metrics.items()}
        metrics[f"eval_{name}_gain"] = measured.metrics[name] - self._start.metrics[name]
        worse = self.judge.worse_slices(self._start, measured)
        metrics["eval_worse_slices"] = float(len(worse))
        metrics |= {
            f"eval_{metric}_gain_{group}": difference.mean
            for (metric, group), difference in worse.items()
        }
        metrics |= self._recent_means()
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _measure(self) -> Measurement:
        model = self.accelerator.unwrap_model(self.model)
        with class_forward(model), torch.no_grad(), self.accelerator.autocast():
            share = self.judge.rank(model, self.args.process_index, self.args.world_size)
        return self.judge.measure(gather_object([share]))

    def worse_slices(self) -> str:
        """The slices on which the last validated checkpoint was worse than the start, by how
        much."""
        entries = [entry for entry in self.state.log_history if "eval_worse_slices" in entry]
        last = entries[-1] if entries else {}
        found = ((_GAIN_OF_SLICE.fullmatch(name), value) for name, value in last.items())
        return ", ".join(
            f"{match['group']} ({match['metric']} {value:+.4f})" for match, value in found if match
        )

    def _recent_means(self) -> dict[str, float]:
        """The means of what was recorded since the last validation, over all processes."""
        means = {}
        for name in ("reward", "dead_groups", "kl"):
            values = self.recent.pop(name, [])
            sums = torch.tensor([sum(values), len(values)], dtype=torch.float64)
            total, count = self.accelerator.reduce(sums.to(self.args.device)).tolist()
            if count:
                means[f"eval_{name}"] = total / count
        return means

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
