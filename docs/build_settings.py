"""Write docs/settings.md from the code; `--check` fails if the committed page is stale."""

import sys
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import trl
from trl import SFTConfig

from sidtool.cli.settings_table import AUTO, Configurable, Setting, list_settings, setting_keys
from sidtool.training.reinforcement import settings as rl
from sidtool.training.settings import DECIDED

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

The keys of `--set key=value`, with defaults and meanings. Written by `make docs`; do not edit. `sidtool settings
COMMAND` prints all of them, the fields of libraries too.

* An unknown key is an error. `train` and `rl` also take the keys in the YAML file of `--config`; `train` takes them for
  one stage of its `stages` list, too, where `examples: FILE` is also a key.
* Of SFTConfig and GRPOConfig of TRL {version} this page describes the fields with a default of sidtool (in parentheses
  that of TRL, if it has another one), and those of GRPOConfig that SFTConfig lacks. The others are named only: they mean
  what the [documentation of TRL](https://huggingface.co/docs/trl) says.
* "auto" is chosen for the machine: bfloat16 on a GPU that supports it, the CPU if there is no GPU. `bf16=auto` also
  selects bfloat16 on a CPU that is faster in it (AMX, Arm, AMD).
"""
FIXED = """
### Fields of {config} that sidtool decides

Setting one of these is an error.

| key | instead |
| --- | --- |
"""
COMMANDS: tuple[Configurable, ...] = ("train", "rl", "build-codebook", "init-model")
DECIDED_FIELDS = {"SFTConfig": DECIDED, rl.RL_SETTINGS.config: rl.RL_SETTINGS.decided}


def row(setting: Setting) -> str:
    """A table row of one setting."""
    default = code(setting.spelled_default)
    if setting.library_default is not None:
        default += f" ({code(str(setting.library_default))})"
    meaning = setting.meaning.replace("|", "or")
    return f"| `{setting.key}` | {setting.type.replace('|', 'or')} | {default} | {meaning} |"


def code(text: str) -> str:
    """A value as inline code, empty for none."""
    return f"`{text}`" if text else ""


def is_described(command: Configurable, setting: Setting) -> bool:
    """Whether a setting has a row: a field in which sidtool follows the library has none, unless
    it belongs to GRPOConfig alone."""
    if setting.group not in DECIDED_FIELDS or setting.default == AUTO:
        return True
    own = setting.library_default is not None or setting.key in setting_keys(command)
    return own or setting.key not in SFTConfig.__dataclass_fields__


def section(command: Configurable) -> str:
    """The tables of one command."""
    parts = [f"\n## `sidtool {command}`\n"]
    for group, settings in groupby(list_settings(command), attrgetter("group")):
        named, rows = partition(command, settings)
        parts.append(f"\n### {group}\n\n| key | type | default | meaning |\n")
        parts.append("\n".join(["| --- | --- | --- | --- |", *map(row, rows), ""]))
        if group in DECIDED_FIELDS:
            parts.append(f"\nAs in {group}: {', '.join(f'`{entry.key}`' for entry in named)}.\n")
            fixed = [f"| `{key}` | {text} |" for key, text in DECIDED_FIELDS[group].items()]
            parts.append(FIXED.format(config=group) + "\n".join(fixed) + "\n")
            parts.append(f"| other fields that {group} adds | sidtool has no use for them |\n")
    return "".join(parts)


def partition(
    command: Configurable, settings: Iterable[Setting]
) -> tuple[list[Setting], list[Setting]]:
    """The settings that are named only, and those that have a row."""
    parts: tuple[list[Setting], list[Setting]] = ([], [])
    for setting in settings:
        parts[is_described(command, setting)].append(setting)
    return parts


def page() -> str:
    """The whole page."""
    return HEAD.format(version=trl.__version__) + "".join(map(section, COMMANDS))


def is_stale() -> bool:
    """Whether the committed page differs; a page for another version of TRL is not compared."""
    if not PAGE.exists():
        return True
    committed = PAGE.read_text(encoding="utf-8")
    return f"TRL {trl.__version__} " in committed and committed != page()


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("docs/settings.md is stale: run `make docs`" if is_stale() else 0)
    PAGE.write_text(page(), encoding="utf-8")
