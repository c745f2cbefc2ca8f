"""From text to items: every semantic ID in a text, and what the bundle knows of it.

Knows a bundle and text; knows nothing of models. Nothing is passed over: what is no SID of a living
item is reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.item_map import ItemMap

Status = Literal["item", "retired", "unknown", "malformed"]


@dataclass(frozen=True)
class Decoded:
    """One SID found in a text: its items (several where collisions are allowed), or why there are
    none."""

    sid: str
    status: Status
    items: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()


def decode(bundle: Bundle, text: str) -> list[Decoded]:
    """Every SID in a text, in order. Pieces that spell no complete SID of the space are
    `malformed`."""
    found = list(bundle.space.find(text))
    codes = [piece.codes for piece in found if piece.codes is not None]
    items = bundle.items_with_sids(
        np.array(codes, dtype=np.uint16).reshape(-1, bundle.space.levels)
    )
    return [_look_up(items, piece.text, piece.codes) for piece in found]


def _look_up(items: ItemMap, text: str, codes: Sequence[int] | None) -> Decoded:
    if codes is None:
        return Decoded(text, "malformed")
    first, stop = items.rows_at(np.array([codes], dtype=np.uint16))
    rows = range(int(first[0]), int(stop[0]))
    alive = [row for row in rows if not items.retired[row]]
    status: Status = "item" if alive else "retired" if len(rows) else "unknown"
    shown = alive or rows
    return Decoded(
        text,
        status,
        tuple(items.ids[row] for row in shown),
        tuple(items.title(row) for row in shown),
    )
