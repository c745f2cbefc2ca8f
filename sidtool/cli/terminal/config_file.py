"""The file of `--config`: defaults of a command's options."""

import json
from pathlib import Path
from typing import Any

import typer

from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import UsageError


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
    options = _options_by_key(ctx)
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


def _options_by_key(ctx: typer.Context) -> dict[str, Any]:
    """The parameters of a command by their key in a file: the long flag without dashes."""
    options = {}
    for parameter in ctx.command.params:
        flags = (name for name in parameter.opts if name.startswith("--"))
        flag = next(flags, parameter.name or "")
        options[flag.lstrip("-").replace("-", "_")] = parameter
    return options


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
