"""How an item is shown in a row: its SID, the start of it, its title, a column of the catalog, or
running text.

Knows items and what is shown of them, as segments; knows nothing of tasks, events or how much fits.
"""

import re
from collections.abc import Collection, Sequence

from sidtool.bundle.bundle import Bundle
from sidtool.data.items import Items
from sidtool.prompt.encoder import PromptEncoder
from sidtool.prompt.segments import Segment, catalog, shorten, sids, template

_SLOTS = re.compile(r"(\{(?:sid|title|columns)\})")


class ItemRenderer:
    """The items of a bundle by row of its map, with their titles and columns out of the catalog.

    Items whose ids are `untold` are shown by their SIDs alone, as if they had no text.
    """

    def __init__(
        self,
        bundle: Bundle,
        items: Items,
        encoder: PromptEncoder | None,
        untold: Collection[str] = (),
    ) -> None:
        self._space, self._map, self._items, self._encoder = (
            bundle.space,
            bundle.items,
            items,
            encoder,
        )
        self._markers = bundle.space.has_markers
        places = {item_id: place for place, item_id in enumerate(items.ids)}
        self._place = [
            places.get(item_id, -1) for item_id in bundle.items.ids
        ]  # row of the map -> place in `items`
        self._told = [item_id not in untold for item_id in bundle.items.ids]
        self._lengths: dict[tuple[str, int], int] = {}

    def shown(self, kind: str, row: int, number: int = 0) -> tuple[Segment, ...]:
        """An item as one segment, or nothing where the catalog has nothing to show.

        A prefix has one code, or two ...; `number` chooses.
        """
        if kind == "sid":
            return (sids(self._space, self._map.codes[row : row + 1]),)
        if kind == "prefix":
            codes = sids(self._space, self._map.codes[row : row + 1]).sid_tokens
            return (
                Segment(
                    "sid", sid_tokens=codes[: self._markers + 1 + number % (self._space.levels - 1)]
                ),
            )
        text = self.text(kind, row)
        return (catalog(text),) if text else ()

    def text(self, kind: str, row: int) -> str:
        """The title or a column of an item, "" where there is none or none is to be told."""
        if not self._told[row]:
            return ""
        place = self._place[row]
        if kind == "title":
            return shorten(
                (self._items.titles[place] if place >= 0 else "") or self._map.title(row)
            )
        return shorten(self._items.fields[kind][place]) if place >= 0 else ""

    def history(self, kind: str, rows: Sequence[int], separator: str) -> list[Segment]:
        """Items as their SIDs in one segment, or as titles with a separator between them."""
        if kind == "sid":
            return [sids(self._space, self._map.codes[list(rows)])]
        segments: list[Segment] = []
        for number, row in enumerate(rows):
            segments += [template(separator)] * bool(number) + [catalog(self.text(kind, row))]
        return segments

    def length(self, kind: str, row: int) -> int:
        """Tokens of an item in a history."""
        if kind == "sid" or self._encoder is None:
            return self._space.levels + 2 * self._markers
        if (kind, row) not in self._lengths:
            self._lengths[kind, row] = len(self._encoder.ids([catalog(self.text(kind, row))]))
        return self._lengths[kind, row]

    def running(self, form: str, row: int) -> list[Segment]:
        """An item as running text: a form's slots filled in; {columns} are its columns, a line each,
        all of it data."""
        segments: list[Segment] = []
        for piece in filter(None, _SLOTS.split(form)):
            if piece in ("{sid}", "{title}"):
                segments += self.shown(piece[1:-1], row)
            elif piece == "{columns}":
                told = [
                    f"\n{name}: {text}"
                    for name in self._items.fields
                    if (text := self.text(name, row))
                ]
                segments += [catalog("".join(told))] * bool(told)
            else:
                segments.append(template(piece))
        return segments
