"""The options of a dataclass that are not their defaults, as a command line has them."""

from typing import Any

from sidtool.base.options import options_of


def given_flags(options: Any) -> dict[str, str]:
    """Flag -> value, of the options of a dataclass that are not their defaults; groups left out."""
    return {
        declared.flag or f"--{entry.name.replace('_', '-')}": str(getattr(options, entry.name))
        for entry, declared in options_of(type(options))
        if not declared.is_group and getattr(options, entry.name) != entry.default
    }


def given_words(options: Any) -> tuple[str, ...]:
    """What `given_flags` has, as the words of a command line."""
    switches = {"True": "--", "False": "--no-"}
    words: list[str] = []
    for flag, value in given_flags(options).items():
        is_switch = value in switches
        words += [switches[value] + flag[2:]] if is_switch else [flag, value]
    return tuple(words)
