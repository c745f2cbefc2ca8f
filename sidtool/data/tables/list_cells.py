"""Cells that spell a list, as JSON or as a Python literal."""

import ast
import re
from typing import Any

from sidtool.base.documents import parse_json

TOKEN = re.compile(
    r"""\s*(?:([\[\],])|('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(-?(?:0|[1-9][0-9]*))(?![\w.]))\s*""",
    re.DOTALL,
)
"""A bracket or comma, a quoted text, or a whole number of a Python list."""
MAX_DEPTH = 32
"""Lists inside of each other."""


def parse_list(text: str) -> list[Any] | None:
    """The list that a cell spells as JSON, or as a Python literal of texts, whole numbers and
    lists; None if it spells none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        return list(parse_json(text))
    except ValueError:
        return _parse_literal(text)


def _parse_literal(text: str) -> list[Any] | None:
    """A stricter `ast.literal_eval`, which joins texts without a comma between them (as NumPy
    prints arrays) and can exhaust the stack."""
    lists: list[list[Any]] = [[]]  # the open lists, the outermost first
    after_member = False
    position = 0
    while position < len(text):
        token = TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        mark, quoted, number = token.groups()
        if mark == ",":
            if not after_member:
                return None
            after_member = False
        elif mark == "]":
            if len(lists) < 2:
                return None
            closed = lists.pop()
            lists[-1].append(closed)
            after_member = True
        elif after_member or len(lists) > MAX_DEPTH or (len(lists) == 1 and lists[0]):
            return None
        elif mark == "[":
            lists.append([])
        else:
            value = _literal(quoted) if quoted else _whole(number)
            if value is None or len(lists) == 1:
                return None
            lists[-1].append(value)
            after_member = True
    return lists[0][0] if len(lists) == 1 and len(lists[0]) == 1 else None


def _literal(quoted: str) -> str | None:
    try:
        text = quoted[1:-1] if "\\" not in quoted else str(ast.literal_eval(quoted))
        text.encode()
    except (ValueError, SyntaxError):  # a malformed escape, or a lone surrogate
        return None
    return text


def _whole(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:  # thousands of digits
        return None
