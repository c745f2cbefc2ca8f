"""An output never replaces what its own command reads."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidtool.artifact import describe
from sidtool.errors import UsageError

_HINT = "write to another path"


def check_inputs_survive(out: Path, inputs: list[Any]) -> None:
    """Raise UsageError if replacing `out` would remove an input, or the folder of this process. An
    artifact (bundle, memory, model, split) may be replaced by its own next version."""
    if out.name in ("", "..") or out.is_symlink() or not out.exists():
        return  # refused elsewhere, or only a link is replaced, or nothing
    replaced = out.resolve()
    folder = Path.cwd()
    if folder == replaced or replaced in folder.parents:
        raise UsageError(f"{out} is the working directory, or contains it", hint=_HINT)
    for path in _paths(inputs):
        if replaced in path.parents:
            raise UsageError(f"{out} contains the input {path}", hint=_HINT)
        if path == replaced and not _is_artifact(out):
            raise UsageError(f"{out} is an input of this command", hint=_HINT)


def _is_artifact(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".zip"
    kind = describe(path) or ""
    return kind in ("a bundle", "a memory", "a split") or kind.startswith("a model")


def _paths(values: Any) -> Iterator[Path]:
    """Every existing file and folder that the values of parameters name, without a version
    (PATH@VERSION) or a weight (PATH=WEIGHT)."""
    if isinstance(values, list | tuple):
        for value in values:
            yield from _paths(value)
    elif isinstance(values, str | Path):
        for text in (str(values), *(str(values).rpartition(sign)[0] for sign in "@=")):
            with suppress(OSError, ValueError):  # no path
                if text and Path(text).exists():
                    yield Path(text).resolve()
