"""Write docs/settings.md from the code; `--check` fails if the committed page is stale."""

import sys
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import trl

from sidtool.cli.settings_table import Configurable, Setting, list_settings
from sidtool.training.reinforcement import settings as rl
from sidtool.training.settings import DECIDED

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Written by `make docs` from the code; do not edit. `sidtool settings COMMAND` prints the same.

Commands take these keys by `--set key=value`; an unknown key is an error. `sidtool train` and `sidtool rl` also take
them in the YAML file of `--config`, at the top level or, for `train`, for one stage of its `stages` list, where
`examples: FILE` is accepted too. Fields of libraries keep their name and their meaning, and their defaults are those
of TRL {version} and of the transformers release beside it, except where a default of the library is given in
parentheses. "auto" is chosen for the machine: bfloat16 on a GPU that supports it, the CPU if there is no GPU.
`bf16=auto` also selects bfloat16 on a CPU that is faster in it (AMX, Arm).
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


def section(command: Configurable) -> str:
    """The tables of one command."""
    parts = [f"\n## `sidtool {command}`\n"]
    for group, settings in groupby(list_settings(command), attrgetter("group")):
        rows = "\n".join(map(row, settings))
        parts.append(f"\n### {group}\n\n| key | type | default | meaning |\n")
        parts.append(f"| --- | --- | --- | --- |\n{rows}\n")
        if group in DECIDED_FIELDS:
            fixed = [f"| `{key}` | {text} |" for key, text in DECIDED_FIELDS[group].items()]
            parts.append(FIXED.format(config=group) + "\n".join(fixed) + "\n")
            parts.append(f"| other fields that {group} adds | sidtool has no use for them |\n")
    return "".join(parts)


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
