"""What the maps of all systems have in common: a bundle without a codebook, and items in an order
of their own.

Knows ids, codes and titles; knows no file format.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.item_map import ItemMap
from sidtool.bundle.manifest import library_versions, now
from sidtool.errors import DataError, UsageError
from sidtool.quantize.collisions import CollisionCounts
from sidtool.sid import LETTERS, MAX_CODES, SidSpace

NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
"""An id that is a number spelled in the one way that reads back as itself."""

TOKEN = re.compile(
    r"(?P<before>.*?)(?P<level>[a-z])(?P<between>[^a-z0-9]*)(?P<code>0|[1-9][0-9]*)(?P<after>[^0-9]*)"
)


def map_bundle(
    space: SidSpace,
    ids: Sequence[str],
    codes: NDArray[np.int64],
    titles: Sequence[str] | None,
    *,
    name: str,
    source: Mapping[str, Any],
) -> Bundle:
    """A bundle of (n, levels) codes made elsewhere: no codebook, no recipe; policy "allow" where
    items share a SID.

    Raises DataError on an empty or repeated id.
    """
    items = ItemMap.of(space, ids, codes.astype(np.uint16), titles)
    return Bundle.of(
        items,
        None,
        "allow" if CollisionCounts.of(items.codes).items else "reassign",
        name=name,
        source={**source, "items": len(ids)},
        libraries=library_versions("numpy", "zarr"),
        created=now(),
    )


def level_sizes(codes: NDArray[np.int64], given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The level sizes of (n, levels) codes: those given, or the smallest power of two that holds
    each level's codes.

    Raises DataError on a code that no level holds, UsageError if the sizes given do not fit the
    codes."""
    largest = codes.max(axis=0).tolist()
    if codes.min() < 0 or max(largest) >= MAX_CODES:
        raise DataError(
            f"codes reach from {codes.min()} to {max(largest)}, a level holds 0 to {MAX_CODES - 1}"
        )
    if given is None:
        return tuple(1 << code.bit_length() for code in largest)
    if len(given) != len(largest):
        raise UsageError(
            f"{len(given)} level sizes are given, the semantic IDs have {len(largest)} levels"
        )
    if any(code >= size for code, size in zip(largest, given, strict=True)):
        raise UsageError(
            f"codes reach {largest}, the level sizes given are {'x'.join(map(str, given))}"
        )
    return given


def parse_tokens(path: Path, sids: Mapping[str, Sequence[str]]) -> tuple[str, NDArray[np.int64]]:
    """Item -> one token a level, as many for every item; gives the template that spells them, and
    (n, levels) codes.

    Raises DataError for a token that is spelled unlike the others, or has not the letter of its
    level."""
    template = ""
    codes = np.empty((len(sids), len(next(iter(sids.values())))), dtype=np.int64)
    for row, (item, sid) in enumerate(sids.items()):
        for level, token in enumerate(sid):
            match = TOKEN.fullmatch(token)
            found = (
                f"{match['before']}{{level}}{match['between']}{{code}}{match['after']}"
                if match
                else ""
            )
            template = template or found
            if (
                match is None
                or found != template
                or LETTERS.find(match["level"]) != level
                or len(match["code"]) > 5
            ):
                told = f"{path}: item {item!r}: {token!r} is no token of level {LETTERS[level : level + 1]!r}"
                raise DataError(
                    told, hint="tokens are spelled alike, like <a_12> <b_3> <c_7>: a letter a level"
                )
            codes[row, level] = int(match["code"])
    return template, codes


def ordered_rows(bundle: Bundle) -> tuple[list[str], NDArray[np.int64]]:
    """Ids of the active items and their rows, by number where every id is one, else by text."""
    ids = [bundle.items.ids[row] for row in bundle.active]
    numeric = are_numbers(ids)
    order = sorted(
        range(len(ids)), key=lambda place: (int(ids[place]) if numeric else 0, ids[place])
    )
    return [ids[place] for place in order], bundle.active[order]


def are_numbers(ids: Sequence[str]) -> bool:
    """Whether every id is a number that fits an int64 and is spelled in the usual way."""
    return all(map(NUMBER.fullmatch, ids))
