"""What the examples of one task are made with, and how a prompt is put together with its
completion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sidtool.base.errors import DataError
from sidtool.data.fields.fields import NO_FIELDS, Fields, FieldTypes
from sidtool.data.split.split import Event
from sidtool.examples.histories import Histories
from sidtool.examples.item_text import ItemRenderer
from sidtool.examples.tasks import Task, writes_sids
from sidtool.model.prompt.assemble import SidItems, TextItems, assemble_prompt
from sidtool.model.prompt.encoder import PromptEncoder
from sidtool.model.prompt.frames import PromptFrame
from sidtool.model.prompt.segments import Segment, begin, catalog, end, template
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import SidSpace


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
    types: FieldTypes
    """The fields of the split."""
    first_number: int = 0
    """The number of the first event: not 0 if those of earlier users are made elsewhere."""

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
        ending = [begin(self.space)] if writes_sids(self.task) else []
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
