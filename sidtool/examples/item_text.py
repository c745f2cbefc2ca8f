"""An item as segments of a prompt: its SID or a prefix of it, its title, a column of the catalog,
or running text."""

import re
from collections.abc import Collection, Sequence

from sidtool.data.fields.fields import Fields
from sidtool.data.items import Items
from sidtool.examples.tasks import Source
from sidtool.model.prompt.assemble import SidItems, TextItems, items_with_fields
from sidtool.model.prompt.frames import PromptFrame
from sidtool.model.prompt.segments import Segment, catalog, shorten, sids, template
from sidtool.tokenizer.bundle.bundle import Bundle

_SLOTS = re.compile(r"(\{(?:sid|title|columns)\})")


class ItemRenderer:
    """Items of a bundle, by their index in it, with titles and columns of a catalog.

    The text of items whose ids are in `hide_text_of` is left out, as if they had none. Running text
    shows `columns` of the catalog, by default all that were read."""

    def __init__(
        self,
        bundle: Bundle,
        items: Items,
        hide_text_of: Collection[str] = (),
        columns: Collection[str] | None = None,
    ) -> None:
        self._space = bundle.space
        self._map = bundle.items
        self._catalog = items
        self._columns_shown = [name for name in items.fields if columns is None or name in columns]
        # The catalog may lack items of the bundle, and have others.
        catalog_index = {item_id: index for index, item_id in enumerate(items.ids)}
        self._catalog_index = [catalog_index.get(item_id) for item_id in bundle.items.ids]
        self._hides_text = [item_id in hide_text_of for item_id in bundle.items.ids]

    def sid(self, index: int) -> Segment:
        """The SID of an item."""
        return sids(self._space, self._map.codes[index : index + 1])

    def bare_sid(self, index: int) -> Segment:
        """The SID of an item without begin and end token."""
        return sids(self._space, self._map.codes[index : index + 1], begin_end_tokens=False)

    def sid_prefix(self, index: int, n_codes: int) -> Segment:
        """The begin token, if SIDs have one, and the first codes of an item."""
        n_tokens = self._space.has_begin_end_tokens + n_codes
        return Segment("sid", sid_tokens=self.sid(index).sid_tokens[:n_tokens])

    def text(self, field: str, index: int) -> str:
        """The title or a column of an item, shortened; "" if it has none or its text is hidden."""
        if self._hides_text[index]:
            return ""
        catalog_index = self._catalog_index[index]
        if field == "title":
            title = "" if catalog_index is None else self._catalog.titles[catalog_index]
            return shorten(title or self._map.title(index))
        return "" if catalog_index is None else shorten(self._catalog.fields[field][catalog_index])

    def history(
        self, source: Source, indexes: Sequence[int], frame: PromptFrame, fields: Fields
    ) -> SidItems | TextItems:
        """Items of a history as SIDs, or as titles with a separator between them; in the form of
        the frame, if it has one, with their fields, the last of which are those of the last
        item."""
        if source == "sid" and not frame.item:
            return SidItems(self._space, self._map.codes[list(indexes)])
        if source == "sid":
            texts = [self.sid(index) for index in indexes]
        else:
            texts = [catalog(self.text("title", index)) for index in indexes]
        return items_with_fields(frame.item or f"{{{source}}}", texts, fields, frame)

    def running_text(self, form: str, index: int) -> list[Segment]:
        """An item in running text: the form with its slots filled, {columns} by a line for each
        column."""
        segments: list[Segment] = []
        for piece in filter(None, _SLOTS.split(form)):
            if piece == "{sid}":
                segments.append(self.sid(index))
            elif piece == "{title}":
                segments.append(catalog(self.text("title", index)))
            elif piece == "{columns}":
                segments.append(catalog(self._columns(index)))
            else:
                segments.append(template(piece))
        return [segment for segment in segments if segment.text or segment.sid_tokens]

    def _columns(self, index: int) -> str:
        """Every shown column that has text, each on its own line."""
        texts = {name: self.text(name, index) for name in self._columns_shown}
        return "".join(f"\n{name}: {text}" for name, text in texts.items() if text)
