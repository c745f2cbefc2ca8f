"""Values that the public functions also take as locations: paths, URLs and references."""

from importlib import import_module
from pathlib import Path
from typing import Literal, TypeVar

Value = TypeVar("Value")


def opened(
    value: Value | str | Path,
    opener: Literal["open_bundle", "open_source", "open_memory", "locate_model"],
) -> Value:
    """A value, or what this function of the registry opens at a path, URL or reference. Raises what
    that raises.

    The registry publishes what the houses below it make, so these import it by its name, and only
    when they are given a location."""
    if not isinstance(value, str | Path):
        return value
    opened_value: Value = getattr(import_module("sidtool.registry"), opener)(value)
    return opened_value
