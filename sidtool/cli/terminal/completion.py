"""Completions that need no model and no network: references to published bundles, names of tasks,
and keys of settings. Paths are completed by the shell, choices by Typer."""

from collections.abc import Callable
from pathlib import Path

from sidtool import examples, registry
from sidtool.base.errors import SidtoolError
from sidtool.base.storage import Storage


def complete_reference(incomplete: str) -> list[str]:
    """References to the versions and tags of a local registry, for "FOLDER/NAME" and what follows
    "@"; nothing for other words, so that the shell completes paths."""
    base = incomplete.partition("@")[0]
    if not base or "://" in base:
        return []
    try:
        if not (Path(base) / registry.POINTER).is_file():
            return []
        folder = Storage(base)
        names = [*registry.read_pointer(folder).tags, *registry.list_versions(folder)]
    except (SidtoolError, OSError, ValueError):
        return []
    # bash takes "@" as the end of a word, so that the references are offered before it is typed
    references = [f"{base}@{name}" for name in names]
    return [reference for reference in references if reference.startswith(incomplete)]


def complete_task(incomplete: str) -> list[str]:
    """Names of the tasks of make-sft."""
    return [name for name in examples.TASKS if name.startswith(incomplete) and "FIELD" not in name]


def complete_setting(command: str) -> Callable[[str], list[str]]:
    """The completion of `key=` for the `--set` of a command; the keys that need no library."""

    def complete(incomplete: str) -> list[str]:
        from sidtool.cli.setting_list import setting_keys

        return [f"{key}=" for key in setting_keys(command) if key.startswith(incomplete)]

    return complete
