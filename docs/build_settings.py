"""Write docs/settings.md from the code; `--check` fails if the committed page is stale."""

import ast
import dataclasses
import inspect
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import trl

from sidtool.reinforcement import settings as rl
from sidtool.training.settings import DEFAULTS, MACHINE_DEFAULTS
from sidtool.training.settings_file import TRAINING, Vocabulary, type_name

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Training settings

Written by `make docs` from the code; do not edit.

`sidtool train` takes these keys by `--set key=value` and in the YAML file of `--config`, at the top level or for one
stage of its `stages` list, where `examples: FILE` is accepted too. An unknown key is an error.

## sidtool's own settings

| key | type | default | meaning |
| --- | --- | --- | --- |
"""
RL_HEAD = """
# Settings of reinforcement

`sidtool rl` takes these keys by `--set key=value` and in the YAML file of `--config`.

## sidtool's own settings of reinforcement

| key | type | default | meaning |
| --- | --- | --- | --- |
"""
FIELDS = """
## Fields of TRL's {config}

Every other field of [{config}](https://huggingface.co/docs/trl/{page}#trl.{config}) keeps its name and its
meaning. Defaults are those of TRL {version}; "auto" is chosen for the machine: bfloat16 on a GPU that supports it, the
CPU if there is no GPU.
`bf16=auto` also selects bfloat16 on a CPU that has instructions for it.

| key | default of TRL | default of sidtool, if different |
| --- | --- | --- |
"""
FIXED = """
## Fields of {config} that sidtool decides

Setting one of these is an error.

| key | instead |
| --- | --- |
"""


def options(vocabulary: Vocabulary) -> list[str]:
    """A table row for each of sidtool's settings."""
    descriptions = attribute_docstrings(vocabulary.options)
    rows = []
    for field in dataclasses.fields(vocabulary.options):
        choices = get_args(field.type)
        is_literal = choices and all(isinstance(choice, str) for choice in choices)
        kind = ", ".join(f"`{choice}`" for choice in choices) if is_literal else code(field.type)
        text = descriptions[field.name]
        rows.append(f"| `{field.name}` | {kind} | {value(field.default)} | {text} |")
    return rows


def attribute_docstrings(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, on one line."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    body = definition.body  # type: ignore[attr-defined]
    docstrings = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            docstrings[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return docstrings


def config_fields(vocabulary: Vocabulary, defaults: Mapping[str, Any]) -> list[str]:
    """A table row for each field of the configuration that can be set."""
    own = vocabulary.option_types
    rows = []
    for field in dataclasses.fields(getattr(trl, vocabulary.config)):
        if field.init and field.name not in own and field.name not in vocabulary.decided:
            default = value(defaults.get(field.name))
            if field.name in MACHINE_DEFAULTS:
                default = "auto"
            rows.append(f"| `{field.name}` | {value(trl_default(field))} | {default} |")
    return rows


def trl_default(field: Any) -> Any:
    """The default of a field of a configuration."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def code(annotation: Any) -> str:
    """A type as inline code; a bar would end the table's cell."""
    return f"`{type_name(annotation)}`".replace(" | None", "` or `none")


def value(default: Any) -> str:
    """A default as inline code, empty for none."""
    if default is None:
        return ""
    text = (
        str(default).lower()
        if isinstance(default, bool)
        else str(getattr(default, "value", default))
    )
    return f"`{text}`" if text else ""


def page() -> str:
    """The whole page."""
    return "".join(
        [
            *part(HEAD, TRAINING, DEFAULTS, "sft_trainer"),
            *part(RL_HEAD, rl.SETTINGS, rl.DEFAULTS, "grpo_trainer"),
        ]
    )


def part(head: str, vocabulary: Vocabulary, defaults: Mapping[str, Any], link: str) -> list[str]:
    """The tables of one command; `link` is the page of TRL's documentation."""
    config = vocabulary.config
    fields = FIELDS.format(version=trl.__version__, config=config, page=link)
    fixed = [f"| `{name}` | {instead} |" for name, instead in vocabulary.decided.items()]
    tables = [head, "\n".join(options(vocabulary)), "\n", fields]
    tables += ["\n".join(config_fields(vocabulary, defaults)), "\n", FIXED.format(config=config)]
    return [*tables, "\n".join(fixed), "\n"]


def is_stale() -> bool:
    """Whether the committed page differs; a page for another version of TRL is not compared."""
    if not PAGE.exists():
        return True
    committed = PAGE.read_text(encoding="utf-8")
    return f"TRL {trl.__version__};" in committed and committed != page()


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("docs/settings.md is stale: run `make docs`" if is_stale() else 0)
    PAGE.write_text(page(), encoding="utf-8")
