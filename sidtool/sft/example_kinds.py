"""The kinds of training examples, one function for each: whole histories, events, items, queries
and running text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sidtool.bundle.item_map import ItemMap
from sidtool.data.queries import Query
from sidtool.errors import DataError
from sidtool.prompt.assemble import SidItems, TextItems, assemble_prompt
from sidtool.prompt.encoder import PromptEncoder
from sidtool.prompt.frames import PromptFrame
from sidtool.prompt.segments import Segment, begin, catalog, end, shorten, sids, template
from sidtool.prompt.slots import frame_segments, joined
from sidtool.sft.histories import Histories, HistorySlice, sequence_windows
from sidtool.sft.item_text import ItemRenderer
from sidtool.sft.task_mix import Copies
from sidtool.sft.tasks import Task
from sidtool.sid import SidSpace
from sidtool.splits.fields import NO_FIELDS, Fields
from sidtool.splits.split import Event, Split


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
class ExampleContext:
    """What the examples of one task are made with.

    `encoder` measures examples against `max_length` tokens; without it nothing is measured. With
    `same_frame`, the first copy of every example has the first frame, by which the model recommends
    later; else examples take the frames in turn."""

    name: str
    task: Task
    frames: tuple[PromptFrame, ...]
    same_frame: bool
    space: SidSpace
    item_map: ItemMap
    items: ItemRenderer
    histories: Histories
    encoder: PromptEncoder | None
    max_length: int
    history_length: int
    context_fields: tuple[str, ...] = ()
    """The fields of an event that are known before it."""

    def frame(self, copy: int, number: int) -> PromptFrame:
        """The frame of a copy of an example, given the number of the example."""
        turn = copy if self.same_frame else copy + number
        return self.frames[turn % len(self.frames)]

    def completion(self, index: int, frame: PromptFrame) -> tuple[Segment, ...]:
        """The target of an item and what closes the completion; empty if the item has no such
        text."""
        close = template(frame.close)
        if self.task.target == "sid":
            # The prompt ends with the begin token.
            return (self.items.bare_sid(index), end(self.space), close)
        text = self.items.text(self.task.column or "title", index)
        return (catalog(text), close) if text else ()

    def prompted(
        self,
        frame: PromptFrame,
        content: SidItems | TextItems,
        completion: tuple[Segment, ...],
        fields: Fields = NO_FIELDS,
    ) -> tuple[tuple[Segment, ...], int]:
        """The prompt with the newest items of `content` that fit beside the completion, and their
        number. Raises DataError if none fits."""
        ending = [begin(self.space)] if self.task.target == "sid" else []
        return self._assemble(frame, content, ending, completion, fields)

    def running_text(
        self, frame: PromptFrame, indexes: Sequence[int]
    ) -> tuple[tuple[Segment, ...], int]:
        """The newest of these items that fit as running text, and their number. Raises DataError if
        none fits."""
        items = [self.items.running_text(frame.item, index) for index in indexes]
        whole_frame = replace(frame, after=frame.after + frame.close, item="")
        return self._assemble(whole_frame, TextItems(items, frame.separator), [], (), NO_FIELDS)

    def _assemble(
        self,
        frame: PromptFrame,
        content: SidItems | TextItems,
        ending: Sequence[Segment],
        completion: Sequence[Segment],
        fields: Fields,
    ) -> tuple[tuple[Segment, ...], int]:
        max_tokens = self.max_length
        if self.encoder is not None:
            max_tokens -= self.encoder.length(completion)
        segments, n_items = assemble_prompt(
            frame, content, ending, fields=fields, encoder=self.encoder, max_tokens=max_tokens
        )
        if n_items == 0:
            raise DataError(
                f"an example of task {self.name} does not fit {self.max_length} tokens",
                hint="raise --max-length",
            )
        return tuple(segments), n_items


def sequence_examples(
    context: ExampleContext, split: Split, copies: Copies
) -> Iterator[TrainingExample]:
    """Whole histories as SIDs, in overlapping windows: every item is a target once."""
    frame = context.frames[0]
    before = template(frame.before)
    # Windows need no measuring: ExampleMaker has checked that the longest one fits.
    for sequence in split.train:
        history = context.histories.of_user(sequence)
        for start, target, stop in sequence_windows(len(history), context.history_length):
            window = history.cut(start, stop)
            codes = context.item_map.codes[window.indexes]
            n_context = target - start  # items that are targets of an earlier window
            earlier = sids(context.space, codes[:n_context])
            targets = sids(context.space, codes[n_context:])
            prompt: tuple[Segment, ...] = (before, earlier) if n_context else ()
            completion: tuple[Segment, ...] = (targets,) if prompt else (before, targets)
            if frame.shows_fields:
                prompt, completion = _sequence_with_fields(context, window, n_context)
            for _ in range(copies()):
                yield TrainingExample(context.name, prompt, completion, window.events)


def _sequence_with_fields(
    context: ExampleContext, window: HistorySlice, n_context: int
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Prompt and completion of a window whose first `n_context` items are no targets. The prompt
    ends with a SID, as it does when serving, so that the text behind it is tokenized as a whole.
    Raises DataError if the window does not fit."""
    frame = replace(context.frames[0], item=context.frames[0].item or "{sid}")
    fields = window.fields.until(window.first + len(window))
    content = context.items.history("sid", window.indexes, frame, fields)
    segments = joined([*frame_segments(frame.before, fields), *content.newest(len(content))])
    ends = [place for place, segment in enumerate(segments, 1) if segment.kind == "sid"]
    segments = segments[: ends[-1]]  # nothing is learned from what follows the last item
    if context.encoder is not None and context.encoder.length(segments) > context.max_length:
        raise DataError(
            f"a sequence of {len(window)} items with fields does not fit {context.max_length} "
            "tokens",
            hint="lower --history-length or raise --max-length",
        )
    cut = ends[n_context - 1] if n_context else 0
    return tuple(segments[:cut]), tuple(segments[cut:])


def event_examples(
    context: ExampleContext, split: Split, copies: Copies
) -> Iterator[TrainingExample]:
    """Training events: the history before an event, and its item."""
    shows_fields = any(frame.shows_fields for frame in context.frames)
    for number, history in enumerate(context.histories.with_target(split)):
        *earlier, target = history.indexes
        if not context.completion(target, context.frames[0]):
            continue
        fields = history.known_before_last(context.context_fields) if shows_fields else NO_FIELDS
        for copy in range(copies()):
            frame = context.frame(copy, number)
            completion = context.completion(target, frame)
            content = context.items.history(context.task.source, earlier, frame, fields)
            prompt, n_items = context.prompted(frame, content, completion, fields)
            events = history.newest(n_items + 1).events
            yield TrainingExample(context.name, prompt, completion, events, history.item_ids[-1])


def history_text_examples(
    context: ExampleContext, split: Split, copies: Copies
) -> Iterator[TrainingExample]:
    """Whole histories as running text, each cut into pieces of `history_length` + 1 items."""
    # as many items as a prompt and its answer have
    size = context.history_length + 1
    for number, sequence in enumerate(split.train):
        history = context.histories.of_user(sequence)
        for start in range(0, len(history), size):
            piece = history.cut(start, start + size)
            for copy in range(copies()):
                frame = context.frame(copy, number)
                text, n_items = context.running_text(frame, piece.indexes)
                yield TrainingExample(context.name, (), text, piece.newest(n_items).events)


def item_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Active items of the catalog: one of SID and text given the other."""
    for index in np.flatnonzero(~context.item_map.retired).tolist():
        # templates and the length of a prefix vary by copy, whether there is text does not
        has_source = bool(_item_content(context, index, 0))
        has_target = bool(context.completion(index, context.frames[0]))
        if not (has_source and has_target):
            continue
        for copy in range(copies()):
            frame = context.frame(copy, index)
            completion = context.completion(index, frame)
            content = TextItems([_item_content(context, index, copy + index)])
            prompt, _ = context.prompted(frame, content, completion)
            yield TrainingExample(
                context.name, prompt, completion, item=context.item_map.ids[index]
            )


def _item_content(context: ExampleContext, index: int, number: int) -> list[Segment]:
    """The source of an item, empty if it has no such text; `number` varies the length of a
    prefix."""
    if context.task.source == "sid":
        return [context.items.sid(index)]
    if context.task.source == "prefix":
        n_codes = 1 + number % (context.space.levels - 1)
        return [context.items.sid_prefix(index, n_codes)]
    text = context.items.text(context.task.column or "title", index)
    return [catalog(text)] if text else []


def item_text_examples(context: ExampleContext, copies: Copies) -> Iterator[TrainingExample]:
    """Active items of the catalog that have a title, as running text."""
    for index in np.flatnonzero(~context.item_map.retired).tolist():
        if not context.items.text("title", index):
            continue
        for copy in range(copies()):
            text, _ = context.running_text(context.frame(copy, index), [index])
            yield TrainingExample(context.name, (), text, item=context.item_map.ids[index])


@dataclass(frozen=True)
class TrainingQuery:
    """A query that may be trained on: its number, the index of its item, and the event it belongs
    to, if it has a user."""

    number: int
    query: Query
    index: int
    events: tuple[Event, ...]


def training_queries(
    queries: Sequence[Query], split: Split, item_index: Mapping[str, int]
) -> list[TrainingQuery]:
    """The queries for items in `item_index`; those of a user only for items of the user's training
    events."""
    positions = {
        (user.user, item): position
        for user in split.train
        for item, position in zip(user.items, user.positions, strict=True)
    }
    usable: list[TrainingQuery] = []
    for number, query in enumerate(queries):
        events: tuple[Event, ...] = ()
        if query.user is not None:
            position = positions.get((query.user, query.item))
            if position is None:
                continue
            events = ((query.user, query.item, position),)
        if query.item in item_index:
            usable.append(TrainingQuery(number, query, item_index[query.item], events))
    return usable


def query_examples(
    context: ExampleContext, queries: Sequence[TrainingQuery], copies: Copies
) -> Iterator[TrainingExample]:
    """Queries, and the SIDs of the items that they describe."""
    for entry in queries:
        for copy in range(copies()):
            frame = context.frame(copy, entry.number)
            completion = context.completion(entry.index, frame)
            content = TextItems([[catalog(shorten(entry.query.text))]])
            prompt, _ = context.prompted(frame, content, completion)
            yield TrainingExample(context.name, prompt, completion, entry.events, entry.query.item)
