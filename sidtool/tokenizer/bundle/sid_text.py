"""From text to items: every semantic ID in a text, and whether it is an item's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap

Status = Literal["item", "retired", "unknown", "malformed"]


@dataclass(frozen=True)
class Decoded:
    """One SID of a text, with its items (several if collisions are allowed), or why it has none."""

    sid: str
    status: Status
    items: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()


def decode(bundle: Bundle, text: str) -> list[Decoded]:
    """Every SID in a text, in order. A piece that is not a complete SID of the space is
    `malformed`.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> text = f"after {bundle.sid('b007')} came <s_a_1>"
        >>> [(piece.status, piece.items) for piece in sidtool.decode(bundle, text)]
        [('item', ('b007',)), ('malformed', ())]
    """
    pieces = list(bundle.space.find(text))
    codes = [piece.codes for piece in pieces if piece.codes is not None]
    sids = np.array(codes, dtype=np.uint16).reshape(-1, bundle.space.levels)
    items = bundle.items_with_sids(sids)
    return [_decode_piece(items, piece.text, piece.codes) for piece in pieces]


def _decode_piece(items: ItemMap, text: str, codes: Sequence[int] | None) -> Decoded:
    if codes is None:
        return Decoded(text, "malformed")
    first, stop = items.rows_at(np.array([codes], dtype=np.uint16))
    rows = range(int(first[0]), int(stop[0]))
    if not rows:
        return Decoded(text, "unknown")
    active = [row for row in rows if not items.retired[row]]
    status: Status = "item" if active else "retired"
    named = active or rows
    ids = tuple(items.ids[row] for row in named)
    return Decoded(text, status, ids, tuple(items.title(row) for row in named))
