"""An output never replaces what its own command reads."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidtool.base.artifact import describe
from sidtool.base.errors import SidtoolError, UsageError

_HINT = "write to another path"


_WRITES = {
    **dict.fromkeys(("build-codebook", "import", "add-items", "align"), "a bundle"),
    "build-memory": "a memory",
    "split": "a split",
    **dict.fromkeys(("init-model", "extend-model", "adopt", "merge", "rebind"), "a model"),
    **dict.fromkeys(("train", "rl", "refresh", "tune-memory"), "a model"),
}
"""The kind of artifact that a command writes, if it writes one."""


def check_inputs_survive(command: str | None, out: Path, inputs: list[Any]) -> None:
    """Raise UsageError if replacing `out` would remove an input, or the folder of this process. An
    artifact (bundle, memory, model, split) may be replaced by its own next version, which only a
    command that writes its kind makes."""
    if out.name in ("", "..") or out.is_symlink() or not out.exists():
        return  # refused elsewhere, or only a link is replaced, or nothing
    replaced = out.resolve()
    folder = Path.cwd()
    if folder == replaced or replaced in folder.parents:
        raise UsageError(f"{out} is the working directory, or contains it", hint=_HINT)
    for path in _paths(inputs):
        if replaced in path.parents:
            raise UsageError(f"{out} contains the input {path}", hint=_HINT)
        if path == replaced and not _is_next_version(command, out):
            raise UsageError(f"{out} is an input of this command", hint=_HINT)


def _is_next_version(command: str | None, out: Path) -> bool:
    written = _WRITES.get(command or "")
    return written is not None and _kind(out).startswith(written)


def _kind(path: Path) -> str:
    """The kind of artifact at a path, as `describe` names it; "" if it is none."""
    if path.suffix != ".zip":
        return describe(path) or ""
    from sidtool.registry import kind_of, read_manifest

    with suppress(SidtoolError):
        return f"a {kind_of(read_manifest(str(path)))}"
    return ""


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
