"""Checks of sidtool's own settings, of training and of reinforcement."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from sidtool.base.errors import UsageError


def check_choices(options: Any) -> None:
    """Raise UsageError unless every text of a dataclass is among the choices of its field."""
    for option in fields(options):
        choices = get_args(option.type)
        value = getattr(options, option.name)
        if choices and all(isinstance(choice, str) for choice in choices) and value not in choices:
            raise UsageError(f"{option.name} must be one of {', '.join(choices)}, not {value!r}")


def check_minima(options: Any, minima: Mapping[str, float]) -> None:
    """Raise UsageError if a number of a dataclass is below the smallest one of its field."""
    for name, minimum in minima.items():
        value = getattr(options, name)
        if value is not None and not value >= minimum:
            raise UsageError(f"{name} must be at least {minimum}, not {value}")


def parse_metric(text: str) -> tuple[str, int]:
    """ "ndcg@10" -> ("ndcg", 10). Raises UsageError for anything but hr@K and ndcg@K."""
    name, _, k = text.partition("@")
    if name not in ("hr", "ndcg") or not k.isdecimal() or int(k) < 1:
        raise UsageError(f"metric_for_best_model must be hr@K or ndcg@K, not {text!r}")
    return name, int(k)
