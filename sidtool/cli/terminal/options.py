"""Options that several commands share, so that each has one name and one help text; the file of
`--config`, which has defaults of a command's options; and completions that need no model and no
network. Paths are completed by the shell, choices by Typer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sidtool import examples, registry
from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import SidtoolError, UsageError
from sidtool.base.options import option
from sidtool.base.storage import Storage
from sidtool.cli.terminal.console import note, say, say_json


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


def setting_pairs(command: str, incomplete: str = "") -> list[str]:
    """`key=` of each setting of a command that begins so and is known without loading a library."""
    from sidtool.cli.settings_table import setting_keys

    return [f"{key}=" for key in setting_keys(command) if key.startswith(incomplete)]


Out = Annotated[
    Path, typer.Option("-o", "--out", help="Output path; an existing one needs --force.")
]
Force = Annotated[bool, "Replace an existing output."]
DryRun = Annotated[bool, "Print the plan; write nothing."]
Json = Annotated[bool, "Print one JSON object (JSON Lines for many results)."]


@dataclass(frozen=True)
class Writing:
    """How a command that makes an output runs."""

    dry_run: bool = option(False)
    """Print the plan; write nothing."""
    force: bool = option(False)
    """Replace an existing output."""
    json: bool = option(False)
    """Print one JSON object (JSON Lines for many results)."""

    def plan(self, text: str, **values: object) -> None:
        """Say what a dry run would do: notes, or the plan's values as one object."""
        if self.json:
            say_json({"dry_run": True, **values})
        else:
            for line in text.splitlines():
                note(line)

    def say(self, value: Mapping[str, object], *lines: str) -> None:
        """The result: one object, or lines."""
        if self.json:
            say_json(value)
        else:
            say(*lines)


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Callback of `--config FILE.yaml`: its keys are defaults of this command's options. An unknown
    key is an error."""
    if path is None:
        return None
    try:
        values = parse_yaml(read_document(path).decode("utf-8-sig"), text_levels=3) or {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must have a mapping of options, not {type(values).__name__}")
    options = {}  # by their keys: the long flags without dashes
    for parameter in ctx.command.params:
        flags = (name for name in parameter.opts if name.startswith("--"))
        flag = next(flags, parameter.name or "")
        options[flag.lstrip("-").replace("-", "_")] = parameter
    settings = {}
    for spelled, value in values.items():
        key = str(spelled).replace("-", "_")
        if key not in options:
            raise UsageError(
                f"{path}: {ctx.info_name} has no option {key!r}",
                hint=f"it has {', '.join(sorted(options))}",
            )
        if options[key].name in settings:
            raise UsageError(f"{path}: the option {key!r} occurs twice")
        settings[options[key].name] = _as_command_line(path, options[key], value)
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return path


def _as_command_line(path: Path, parameter: Any, value: Any) -> Any:
    """A YAML value as the command line spells it: a mapping is a list of `key=value`."""
    repeatable = getattr(parameter, "multiple", False) or parameter.nargs != 1
    if isinstance(value, list | dict) and not repeatable:
        raise UsageError(
            f"{path}: {parameter.opts[0]} takes one value, not a {type(value).__name__}"
        )
    if isinstance(value, list) and not all(isinstance(member, str) for member in value):
        raise UsageError(f"{path}: {parameter.opts[0]} takes a list of values, not {value}")
    if isinstance(value, dict):
        return [
            f"{key}={item if isinstance(item, str) else json.dumps(item, default=str)}"
            for key, item in value.items()
        ]
    if repeatable and value is not None and not isinstance(value, list):
        value = [value]
    return [str(item) for item in value] if isinstance(value, list) else value


Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print results, warnings and errors only.")
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print timings and what libraries report, too.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]
Trust = Annotated[bool, "Run a model's own code and load pickled weights."]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file of this command's options.", callback=read_config, is_eager=True
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads; default: one per core. The output is the same.")
]
Bundle = Annotated[
    str,
    typer.Argument(
        help="A bundle: NAME.zarr, NAME.zarr.zip, a URL or URL/NAME@VERSION.",
        autocompletion=complete_reference,
    ),
]
Artifact = Annotated[str, "A bundle, memory or model: a path, a URL or URL/NAME@VERSION."]
Model = Annotated[str, "A model folder of extend-model or train, or hf://ORG/NAME."]
LoadedModel = Annotated[str, "A model folder, hf://ORG/NAME, or a published model URL/NAME@TAG."]
Split = Annotated[
    Path, "Folder that `sidtool split` wrote, or a file of events (split by leave-one-out)."
]
ByRow = Annotated[bool, "Accept vectors without ids: row i is that of item i of the catalog."]
