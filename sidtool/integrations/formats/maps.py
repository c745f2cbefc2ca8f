"""What the maps of all systems share: what an export is written with and what it wrote, level
sizes, token spelling, item order, and the bundle that a map becomes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.extras import library_versions
from sidtool.data import Items
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle, ItemMap, now
from sidtool.tokenizer.codes import CollisionCounts
from sidtool.tokenizer.sid import LETTERS, MAX_CODES, SidSpace

NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
"""An id that is a number without leading zeros and fits an int64."""

TOKEN = re.compile(
    r"(?P<before>.*?)(?P<level>[a-z])(?P<between>[^a-z0-9]*)(?P<code>0|[1-9][0-9]{0,4})(?P<after>[^0-9]*)"
)
"""A SID token: a letter for the level, then a code."""


Keys = Literal["id", "line"]


@dataclass(frozen=True)
class Export:
    """What an export is written with."""

    items: Items | None = None
    keys: Keys = "id"
    tokens: SidTokens | None = None
    force: bool = False


@dataclass(frozen=True)
class Exported:
    """The files of an export."""

    files: tuple[Path, ...]
    engine_options: str = ""
    """the options with which an inference engine reads them, if it has others than a path"""
    lacks: str = ""
    """what the files lack, and which option adds it"""


def map_bundle(
    space: SidSpace,
    ids: Sequence[str],
    codes: NDArray[np.int64],
    titles: Sequence[str] | None,
    *,
    name: str,
    source: Mapping[str, Any],
    catalog: Items | None,
) -> Bundle:
    """A bundle of (n, levels) codes from another system: no codebook, no recipe. It records the
    columns of the `catalog` that its titles are from.

    The policy is "allow" if items share a SID. Raises DataError on an empty or repeated id.
    """
    items = ItemMap.of(space, ids, codes.astype(np.uint16), titles)
    read = None if catalog is None else catalog.columns
    columns = {} if read is None else {"columns": read.to_json()}
    return Bundle.of(
        items,
        None,
        "allow" if CollisionCounts.of(items.codes).items else "reassign",
        name=name,
        source={**source, "items": len(ids), **columns},
        libraries=library_versions("sidtool", "numpy", "zarr"),
        created=now(),
    )


def level_sizes(codes: NDArray[np.int64], sizes: tuple[int, ...] | None) -> tuple[int, ...]:
    """The level sizes for (n, levels) codes: `sizes`, or else the smallest power of two that holds
    each level's codes.

    Raises DataError for a code that no level can hold, UsageError if the codes exceed `sizes`.
    """
    largest = codes.max(axis=0).tolist()  # of each level
    if codes.min() < 0 or max(largest) >= MAX_CODES:
        raise DataError(
            f"codes range from {codes.min()} to {max(largest)}, a level holds 0 to {MAX_CODES - 1}"
        )
    if sizes is None:
        return tuple(1 << code.bit_length() for code in largest)
    if len(sizes) != len(largest):
        raise UsageError(
            f"there are {len(sizes)} level sizes, the semantic IDs have {len(largest)} levels"
        )
    if any(code >= size for code, size in zip(largest, sizes, strict=True)):
        spelled = "x".join(map(str, sizes))
        raise UsageError(f"the largest codes are {largest}, the level sizes are {spelled}")
    return sizes


def parse_tokens(path: Path, sids: Mapping[str, Sequence[str]]) -> tuple[str, NDArray[np.int64]]:
    """Parse each item's tokens, one per level: the token template, and (n, levels) int64 codes.

    Raises DataError for a token with another spelling than the first, or with another level's
    letter.
    """
    template = None
    n_levels = len(next(iter(sids.values())))
    codes = np.empty((len(sids), n_levels), dtype=np.int64)
    for row, (item, tokens) in enumerate(sids.items()):
        for level, token in enumerate(tokens):
            letter = LETTERS[level : level + 1]  # "" beyond the last letter
            match = TOKEN.fullmatch(token)
            template = template or (_template(match) if match else None)
            if match is None or _template(match) != template or match["level"] != letter:
                raise DataError(
                    f"{path}: item {item!r}: {token!r} is not a token of level {letter!r}",
                    hint="all tokens need one spelling with a letter per level, "
                    "like <a_12> <b_3> <c_7>",
                )
            codes[row, level] = int(match["code"])
    return template or "", codes


def _template(match: re.Match[str]) -> str:
    return f"{match['before']}{{level}}{match['between']}{{code}}{match['after']}"


def sorted_active_rows(bundle: Bundle) -> tuple[list[str], NDArray[np.int64]]:
    """Ids and rows of the active items, sorted by number if every id is one, else by text."""
    ids = [bundle.items.ids[row] for row in bundle.active]
    sort_key: Callable[[str], Any] = int if are_numbers(ids) else str
    order = sorted(range(len(ids)), key=lambda position: sort_key(ids[position]))
    return [ids[i] for i in order], bundle.active[order]


def are_numbers(ids: Sequence[str]) -> bool:
    """Whether every id is a number that fits an int64, without leading zeros."""
    return all(map(NUMBER.fullmatch, ids))
