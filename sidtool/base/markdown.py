"""Text from data as literal Markdown, and tables of it."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

_MARKUP = re.compile(r"[\\`<>|\[\]]")
"""Characters that begin code, HTML, a link or a cell."""


def literal(value: object) -> str:
    """A value as literal Markdown text on one line, so that it stays in its cell."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    """A text on one line without control characters."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


def shell_word(text: str) -> str:
    """A text as one word of a shell command on one line."""
    return shlex.quote(one_line(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of literal cells."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(literal, line)) + " |" for line in lines)


def key_value_table(values: Mapping[str, object]) -> str:
    """A table of two columns, a row per key."""
    return table(("key", "value"), values.items())
