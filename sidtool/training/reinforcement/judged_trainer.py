"""Validation of a policy in training: how it recommends, and whether it is worse than the start."""

import re
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerControl

from sidtool.training.loop.divergence import check_weights
from sidtool.training.loop.trainer import class_forward
from sidtool.training.reinforcement.judge import Judge, Measurement
from sidtool.training.reinforcement.objective import GroupObjective

_GAIN_OF_SLICE = re.compile(r"eval_(?P<metric>.+)_gain_(?P<group>.+)")
"""The key of a metric's difference from the start on a slice."""


class JudgedTrainer(GroupObjective):
    """A trainer that validates by recommending, and does not select what is worse on a slice."""

    judge: Judge
    refuses_worse_slices: bool
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
        """Log without what TRL measures of texts: every item has the same number of tokens."""
        for mode in ("train", "eval"):
            for name in list(self._metrics[mode]):
                if name.startswith(("completions/", "rewards/", "num_tokens")):
                    del self._metrics[mode][name]
        super().log(logs, start_time)
