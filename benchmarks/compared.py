"""The differences of two evaluations of the same examples."""

from sidtool.evaluation.bootstrap import Difference
from sidtool.evaluation.results import Evaluation, system_differences


def compare(one: Evaluation, other: Evaluation) -> dict[str, dict[str, Difference]]:
    """By how much one model is better than another on the same examples in the same order: group
    ("all", "macro" and the slices) -> metric that both have -> difference."""
    for name in ("examples", "ks"):
        if one.settings[name] != other.settings[name]:
            raise SystemExit(f"the evaluations have different {name}")
    return system_differences(one.values, other.values, one.users, one.groups, seed=0)
