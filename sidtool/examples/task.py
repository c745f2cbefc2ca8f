"""What a task is, and what its examples are made with. The tasks themselves are in `tasks.py`."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import Fields, FieldTypes, Items, Query, Texts
from sidtool.data.split import Event, ListTargets, Split
from sidtool.examples.blocks import BlockCopies, MakeBlock, TrainEvents
from sidtool.examples.histories import Histories, HistorySlice
from sidtool.model.prompt import (
    PromptEncoder,
    PromptFrame,
    Segment,
    assemble_history,
    assemble_prompt,
    begin,
    catalog,
    item_text,
    sids,
    template,
)
from sidtool.model.vocabulary import sid_token_indexes
from sidtool.tokenizer.bundle import Bundle

LARGEST_WEIGHT = float(np.finfo(np.float32).max)


Per = Literal["user", "event", "item", "query", "document"]
"""What has an example: the history of a user, a training event (or a window of a split by given
windows), an item of the catalog, a search query, or a document of a general corpus."""

Source = Literal["sid", "title", "prefix", "query", "column"]
"""What the prompt shows: items as SIDs or titles, the first codes of a SID, a query, or a column of
the catalog."""

Target = Literal["sid", "list", "title", "text", "column", "feedback"]
"""What the model writes: a SID, several SIDs, a title, a column, running text, in which all is
completion, or a feedback of the last item of the history."""

Copies = Callable[[], int]
"""Number of copies of the next example; called once per example, in order."""

MakeExamples = Callable[["ExampleContext", Copies], "Iterator[TrainingExample]"]

MakeBlocks = Callable[["ExampleContext", TrainEvents, range, BlockCopies], Iterator[MakeBlock]]
"""Makes the examples of consecutive users as lines."""

_SLOTS = re.compile(r"(\{(?:sid|title|columns)\})")


@dataclass(frozen=True)
class TrainingExample:
    """One training example: a prompt and its completion, or a completion alone.

    `events` are the (user, item, position) events that it shows, `item` is the id of the item that
    it is about, if it is about a single one."""

    task: str
    prompt: tuple[Segment, ...]
    completion: tuple[Segment, ...]
    events: tuple[Event, ...] = ()
    item: str | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Prompt and completion."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class Task:
    """One kind of training example, made by `make`.

    `column` is the catalog column that source or target show, `feedback` the feedback of the event
    that the prompt shows or the model writes; `templates` is the name of the template file."""

    make: MakeExamples
    per: Per
    source: Source
    target: Target
    column: str = ""
    feedback: str = ""
    shows_context: bool = False
    """Whether the templates show all fields of users and contexts."""
    templates: str = ""

    @property
    def needs_fields(self) -> bool:
        """Whether the templates show fields of the split."""
        return self.shows_context or bool(self.feedback)

    @property
    def of_users(self) -> bool:
        """Whether examples show training events of one user."""
        return self.per in ("user", "event")

    @property
    def of_whole_histories(self) -> bool:
        """Whether examples are made of whole histories, even of a split by given windows."""
        return self.per == "user"

    @property
    def needs_queries(self) -> bool:
        """Whether examples are made of search queries."""
        return self.per == "query"

    @property
    def shows_title(self) -> bool:
        """Whether examples show titles of items."""
        return self.source == "title" or self.target in ("title", "text")

    @property
    def is_sequence(self) -> bool:
        """Whether every item of a whole history is a target."""
        return self.per == "user" and self.target == "sid"

    @property
    def writes_sids(self) -> bool:
        """Whether every answer is one SID or several."""
        return self.target in ("sid", "list")

    @property
    def learns_sids(self) -> bool:
        """Whether answers, or running text, have SIDs."""
        return self.writes_sids or (self.target == "text" and self.per != "document")

    @property
    def history_source(self) -> Literal["sid", "title"] | None:
        """How the prompt shows a history; None for a task without such a prompt."""
        if not self.of_users or self.target == "text":
            return None
        return "title" if self.source == "title" else "sid"


class ItemTexts:
    """The titles and columns of a catalog, by the index of an item in the bundle; a title that the
    catalog lacks is that of the bundle.

    The text of items whose ids are in `hide_text_of` is left out, as if they had none. Running text
    shows `columns` of the catalog, by default all that were read."""

    def __init__(
        self,
        bundle: Bundle,
        items: Items,
        hide_text_of: Collection[str] = (),
        columns: Collection[str] | None = None,
    ) -> None:
        self._map = bundle.items
        self._catalog = items
        self._columns_shown = [name for name in items.fields if columns is None or name in columns]
        ids = bundle.items.id_texts
        self.catalog_rows = ids.places_in(items.ids)
        """(items,): the row of each in the catalog, -1 if it lacks the item"""
        to_hide = sorted(hide_text_of)
        rows_to_hide = bundle.items.rows(to_hide)
        self.unknown = [to_hide[place] for place in np.flatnonzero(rows_to_hide < 0)]
        """Those of `hide_text_of` that the bundle lacks, sorted"""
        self.hidden = np.zeros(len(ids), dtype=np.bool_)
        """(items,): whether the text of each is left out"""
        self.hidden[rows_to_hide[rows_to_hide >= 0]] = True

    def text(self, column: str, index: int) -> str:
        """The title or a column of an item, shortened; "" if it has none or its text is hidden."""
        if self.hidden[index]:
            return ""
        row = self.catalog_rows[index]
        if column == "title":
            title = "" if row < 0 else self._catalog.titles[row]
            return item_text(title or self._map.title(index))
        return "" if row < 0 else item_text(self._catalog.fields[column][row])

    def columns(self, index: int) -> str:
        """Every shown column that has text, each on its own line."""
        texts = {name: self.text(name, index) for name in self._columns_shown}
        return "".join(f"\n{name}: {text}" for name, text in texts.items() if text)


@dataclass(frozen=True)
class ExampleContext:
    """What the examples of one task are made with.

    `encoder` measures examples against `max_length` tokens; without it nothing is measured. With
    `same_frame`, the first copy of every example has the first frame, by which the model recommends
    later; else examples take the frames in turn."""

    name: str
    task: Task
    frames: tuple[PromptFrame, ...]
    same_frame: bool
    bundle: Bundle
    split: Split
    texts: ItemTexts
    histories: Histories
    encoder: PromptEncoder | None
    max_length: int
    types: FieldTypes
    """The fields of the split."""
    queries: Sequence[Query] = ()
    documents: Sequence[str] = ()
    """Of a general corpus."""
    lists: ListTargets | None = None
    counts: Callable[[Event], bool] | None = None
    """Which events have a weight above 0, as a target; None for all."""
    first_number: int = 0
    """The number of the first event: not 0 if those of earlier users are made elsewhere."""

    @property
    def history_length(self) -> int:
        """The largest number of items in a prompt."""
        return self.histories.history_length

    def has_target(self, answers: HistorySlice) -> bool:
        """Whether anything is learned from these events as answers."""
        return self.counts is None or any(map(self.counts, answers.events))

    def length(self, segments: Sequence[Segment]) -> int:
        """Number of tokens in segments, 0 where nothing is measured."""
        return 0 if self.encoder is None else self.encoder.length(segments)

    def frame(self, copy: int, number: int = 0) -> PromptFrame:
        """The frame of a copy of an example, given the number of the example."""
        turn = copy if self.same_frame else copy + number
        return self.frames[turn % len(self.frames)]

    def sids(self, indexes: Sequence[int], *, behind_begin: bool = False) -> Segment:
        """The SIDs of items; `behind_begin`, they follow a prompt that ends with a begin token."""
        codes = self.bundle.items.codes[list(indexes)]
        return sids(self.bundle.space, codes, behind_begin=behind_begin)

    def sid_texts(self, rows: NDArray[np.int64], *, begin_token: bool = True) -> tuple[Texts, int]:
        """The SIDs of items as text, and their length in tokens; as answers without the begin
        token, with which the prompt ends."""
        import pyarrow as pa
        import pyarrow.compute as pc

        space = self.bundle.space
        indexes = sid_token_indexes(space, self.bundle.items.codes[rows])
        if space.has_begin_end_tokens and not begin_token:
            indexes = indexes[:, 1:]
        tokens = pa.array(space.tokens, pa.string())
        columns = [tokens.take(pa.array(column)) for column in indexes.T]
        return Texts(pc.binary_join_element_wise(*columns, "")), indexes.shape[1]

    def text(self, index: int) -> str:
        """The column of an item that the task shows, or else its title; "" if it has none."""
        return self.texts.text(self.task.column or "title", index)

    def completion(self, index: int, frame: PromptFrame) -> tuple[Segment, ...]:
        """The target of an item and what closes the completion; empty if the item has no such
        text."""
        close = template(frame.close)
        if self.task.target == "sid":
            return (self.sids([index], behind_begin=True), close)
        text = self.text(index)
        return (catalog(text), close) if text else ()

    @property
    def ending(self) -> list[Segment]:
        """What a prompt ends with: the begin token, if a SID follows."""
        return [begin(self.bundle.space)] if self.task.writes_sids else []

    def history_prompt(
        self,
        frame: PromptFrame,
        indexes: Sequence[int],
        completion: Sequence[Segment],
        fields: Fields,
    ) -> tuple[tuple[Segment, ...], int]:
        """The prompt with the newest of these items of a history that fit beside the completion,
        as the task shows them, and their number. The last event of `fields` is that of the last
        item. Raises DataError if none fits."""
        titles = None
        if self.task.history_source == "title":
            titles = [self.texts.text("title", index) for index in indexes]
        segments, n_items = assemble_history(
            frame,
            self.bundle.space,
            self.bundle.items.codes[list(indexes)],
            titles,
            fields,
            self.ending,
            encoder=self.encoder,
            max_tokens=self.max_length - self.length(completion),
        )
        if n_items == 0:
            raise self.too_long()
        return tuple(segments), n_items

    def prompt(
        self,
        frame: PromptFrame,
        items: Sequence[Sequence[Segment]],
        completion: Sequence[Segment] = (),
    ) -> tuple[tuple[Segment, ...], int]:
        """The prompt with the newest of these items, each given by its segments, that fit beside
        the completion, and their number. Raises DataError if none fits."""
        max_tokens = self.max_length - self.length(completion)
        segments, n_items = assemble_prompt(
            frame, items, self.ending, encoder=self.encoder, max_tokens=max_tokens
        )
        if n_items == 0:
            raise self.too_long()
        return tuple(segments), n_items

    def too_long(self) -> DataError:
        """What is raised where no item fits."""
        return DataError(
            f"an example of task {self.name} does not fit {self.max_length} tokens",
            hint="raise --max-length",
        )

    def running_text(
        self, frame: PromptFrame, indexes: Sequence[int]
    ) -> tuple[tuple[Segment, ...], int]:
        """The newest of these items that fit as running text, and their number. Raises DataError if
        none fits."""
        items = []
        for index in indexes:
            segments = []
            for piece in _SLOTS.split(frame.item):
                if piece == "{sid}":
                    segments.append(self.sids([index]))
                elif piece == "{title}":
                    segments.append(catalog(self.texts.text("title", index)))
                elif piece == "{columns}":  # by a line for each column
                    segments.append(catalog(self.texts.columns(index)))
                else:
                    segments.append(template(piece))
            items.append([piece for piece in segments if piece.text or piece.sid_tokens])
        whole_frame = replace(frame, after=frame.after + frame.close, item="")
        return self.prompt(whole_frame, items)
