"""Ids that people would call equal: they differ by white space or by their Unicode form only."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spelling:
    """Ids that are spelled in several ways."""

    variants: tuple[tuple[str, ...], ...]
    """Groups of different ids with one normal form, each in order of first appearance."""


def normal_form(text: str) -> str:
    """The text in Unicode's composed form (NFC), without white space around it. White space inside
    of it stays: "A  1" and "A 1" may be two items."""
    return unicodedata.normalize("NFC", text).strip()


def spellings(ids: Sequence[str]) -> Spelling:
    """The groups of different ids that have one normal form, or differ by white space."""
    groups: dict[str, dict[str, None]] = {}
    for item in ids:
        if item:
            groups.setdefault(" ".join(normal_form(item).split()), {})[item] = None
    return Spelling(tuple(tuple(group) for group in groups.values() if len(group) > 1))
