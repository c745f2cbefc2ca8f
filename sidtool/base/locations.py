"""Values that the public functions also take as locations: paths, URLs and references."""

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeVar

from sidtool.base.errors import UsageError

URL = re.compile(r"([a-z][a-z0-9+]+):/+(?=[^/])")
"""The start of a URL; a Path has lost its second slash."""
Value = TypeVar("Value")


def given_path(path: str | Path) -> Path:
    """A path that a caller gave. Raises UsageError for "", which would be the working folder, and
    for what is no path, such as a table."""
    if not isinstance(path, str | Path):
        raise UsageError(f"a path is a text or a Path, not a {type(path).__name__}")
    if path == "":
        raise UsageError("the path is empty")
    return Path(path)


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


def published_beside(bundle: object, published: Sequence[str] | None) -> Sequence[str]:
    """These numbers of published versions, or else those that the registry has of a bundle that a
    reference names; none for a value. Raises as `locate` does."""
    if published is not None or not isinstance(bundle, str | Path):
        return published or ()
    numbers: list[str] = import_module("sidtool.registry").published_versions(bundle)
    return numbers
