"""Values of models on the examples of a split, and the tables of benchmarks/reinforce.py."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from table import markdown, spread

from sidtool.evaluation.bootstrap import Groups, paired_differences
from sidtool.evaluation.groups import SLICES

METRICS = ("hr@10", "ndcg@10")
START = "start"


@dataclass(frozen=True, eq=False)
class Values:
    """The metrics of a model on each of n examples."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    """(n, metrics)"""

    def column(self, name: str) -> NDArray[np.float64]:
        """(n,) one metric."""
        return self.values[:, self.names.index(name)]

    @property
    def in_beam(self) -> str:
        """The metric that says whether the target's whole SID is in the beam."""
        return [name for name in self.names if name.startswith("survival@")][-1]


def group_means(values: Values, groups: Groups) -> dict[str, dict[str, float]]:
    """Group -> metric -> weighted mean."""
    return {
        group: {
            name: float(np.average(values.column(name), weights=weights))
            for name in (*METRICS, values.in_beam)
        }
        for group, weights in groups.items()
    }


def differences(
    values: Values, other: Values, users: Sequence[str], groups: Groups
) -> dict[str, dict[str, dict[str, float]]]:
    """Group -> metric -> paired difference of one system less another."""
    one, two = (
        np.column_stack([system.column(name) for name in METRICS]) for system in (values, other)
    )
    by_group = paired_differences(METRICS, one, two, users, groups)
    return {
        group: {name: asdict(difference) for name, difference in by_metric.items()}
        for group, by_metric in by_group.items()
    }


def result_tables(result: Mapping[str, Any]) -> str:
    """The means over the seeds, and the differences from the start and from the controls."""
    systems = result["systems"]
    measured = systems[START]["seeds"][0]["groups"]
    groups = ["all", "macro", *(name for name in SLICES if name in measured)]
    in_beam = list(measured["all"])[-1]
    header = ["", "rate", "R@10", *(f"N@10 {group}" for group in groups), "in beam", "seconds"]
    rows = [_system_row(name, system, groups, in_beam) for name, system in systems.items()]
    tables = [markdown([*header, "million tokens"], rows)]
    for other in result["compared_with"]:
        rows = [
            [name, *_intervals(system["differences"][other], groups)]
            for name, system in systems.items()
            if other in system["differences"]
        ]
        if rows:
            tables.append(markdown([f"1000 x N@10 less {other}", *groups], rows))
    return "\n\n".join(tables)


def _system_row(
    name: str, system: Mapping[str, Any], groups: Sequence[str], in_beam: str
) -> list[str]:
    seeds = system["seeds"]

    def figure(group: str, metric: str) -> str:
        return spread([seed["groups"][group][metric] for seed in seeds])

    refused = sum(seed["refused"] for seed in seeds)
    tokens = [seed["tokens"] for seed in seeds if seed["tokens"] is not None]
    return [
        f"{name} (refused {refused} of {len(seeds)})" if refused else name,
        f"{system['learning_rate']:g}" if system["learning_rate"] else "",
        figure("all", "hr@10"),
        *(figure(group, "ndcg@10") for group in groups),
        figure("all", in_beam),
        f"{mean(seed['seconds'] for seed in seeds):.0f}",
        f"{mean(tokens) / 1e6:.2f}" if tokens else "",
    ]


def _intervals(by_group: Mapping[str, Any], groups: Sequence[str]) -> list[str]:
    """Differences in thousandths of N@10, with their 95% intervals."""
    gains = [by_group[group]["ndcg@10"] for group in groups]
    return [
        f"{1e3 * gain['mean']:+.1f} ({1e3 * gain['low']:+.1f} to {1e3 * gain['high']:+.1f})"
        for gain in gains
    ]
