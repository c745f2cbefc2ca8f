"""Assembly of prompts, for training examples and for serving: which items of a history fit, and in
what order the segments follow each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sidtool.base.errors import DataError, UsageError
from sidtool.data import NO_FIELDS, Fields
from sidtool.model.network.structure import is_encoder_decoder, max_positions
from sidtool.model.prompt.frames import PromptFrame
from sidtool.model.prompt.item_text import item_text
from sidtool.model.prompt.prompts import HistoryPrompt, LabelPrompt, TextPrompt
from sidtool.model.prompt.segments import (
    PromptEncoder,
    Segment,
    begin,
    catalog,
    prompt_encoder,
    sids,
    template,
)
from sidtool.model.prompt.template_slots import frame_segments, item_segments, joined
from sidtool.model.vocabulary.tokens import SidTokens, sid_token_indexes
from sidtool.tokenizer.sid import Codes, SidSpace

Prompt = TypeVar("Prompt", HistoryPrompt | None, LabelPrompt, TextPrompt | None)


@dataclass(frozen=True)
class SidItems:
    """Items as SIDs with nothing between them, oldest first: (n, levels) codes. Many prompts are
    made of these, and one segment of all takes a fraction of the time of one for each."""

    space: SidSpace
    codes: Codes

    def __len__(self) -> int:
        return len(self.codes)

    def count_fitting(self, room: int, encoder: PromptEncoder) -> int:
        """How many of the newest items take at most `room` tokens."""
        tokens_per_item = self.space.levels + 2 * self.space.has_begin_end_tokens
        return min(len(self), max(0, room) // tokens_per_item)

    def newest(self, n: int) -> list[Segment]:
        """The last n items."""
        return [sids(self.space, self.codes[len(self) - n :])]


@dataclass(frozen=True)
class SegmentItems:
    """The items in a prompt, oldest first: the segments of each, with a separator between two
    items."""

    items: Sequence[Sequence[Segment]]
    separator: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def count_fitting(self, room: int, encoder: PromptEncoder) -> int:
        """How many of the newest items take at most `room` tokens, separators included."""
        lengths = [encoder.length(item) for item in self.items]
        return count_fitting(lengths, room, encoder.length([template(self.separator)]))

    def newest(self, n: int) -> list[Segment]:
        """The last n items."""
        separator = template(self.separator)
        segments: list[Segment] = []
        for number, item in enumerate(self.items[len(self) - n :]):
            if number:
                segments.append(separator)
            segments.extend(item)
        return segments


def count_fitting(lengths: Sequence[int], room: int, separator_length: int) -> int:
    """How many of the last items, of these lengths, take at most `room` tokens with a separator
    between two items."""
    taken = 0
    for n_items, length in enumerate(reversed(lengths)):
        taken += length
        if n_items:
            taken += separator_length
        if taken > room:
            return n_items
    return len(lengths)


def assemble_prompt(
    frame: PromptFrame,
    items: Sequence[Sequence[Segment]],
    ending: Sequence[Segment] = (),
    *,
    encoder: PromptEncoder | None = None,
    max_tokens: int = 0,
) -> tuple[list[Segment], int]:
    """The segments of a prompt and the number of items in it, given the segments of each item.

    The prompt is the frame's text before the content, the newest items that fit into `max_tokens`,
    the text after it, and `ending` (the begin token of a SID). Without an encoder, which measures
    segments, all items enter."""
    content = SegmentItems(items, frame.separator)
    return _assemble(frame, content, NO_FIELDS, ending, encoder, max_tokens)


def assemble_history(
    frame: PromptFrame,
    space: SidSpace,
    history: Codes,
    titles: Sequence[str] | None,
    fields: Fields,
    ending: Sequence[Segment] = (),
    *,
    encoder: PromptEncoder | None = None,
    max_tokens: int = 0,
) -> tuple[list[Segment], int]:
    """As `assemble_prompt`, of the items of a history, (n, levels) codes, as the frame shows them:
    by their SIDs or, if there are titles, by these, in the form of the frame, if it has one.

    `fields` fill the slots of the frame; their last event is that of the last item."""
    if titles is None and not frame.item:
        return _assemble(frame, SidItems(space, history), fields, ending, encoder, max_tokens)
    if titles is None:
        indexes = sid_token_indexes(space, history)
        segments = [Segment("sid", sid_tokens=tuple(sid)) for sid in indexes.tolist()]
    else:
        segments = [catalog(item_text(title)) for title in titles]
    items = [[segment] for segment in segments]
    if frame.item:
        items = [
            item_segments(frame.item, segment, fields, place - len(segments), frame.tokens)
            for place, segment in enumerate(segments)
        ]
    content = SegmentItems(items, frame.separator)
    return _assemble(frame, content, fields, ending, encoder, max_tokens)


def _assemble(
    frame: PromptFrame,
    items: SegmentItems | SidItems,
    fields: Fields,
    ending: Sequence[Segment],
    encoder: PromptEncoder | None,
    max_tokens: int,
) -> tuple[list[Segment], int]:
    before, after = [template(frame.before)], [template(frame.after)]
    if frame.has_slots:
        before = frame_segments(frame.before, fields, frame.tokens)
        after = frame_segments(frame.after, fields, frame.tokens)
    n_items = len(items)
    if encoder is not None:
        room = max_tokens - encoder.length([*before, *after, *ending])
        n_items = items.count_fitting(room, encoder)
    while True:
        segments = [*before, *items.newest(n_items), *after, *ending]
        if not frame.has_slots:
            return segments, n_items
        segments = joined(segments)
        # texts that are joined may take more tokens than apart
        if encoder is None or not n_items or encoder.length(segments) <= max_tokens:
            return segments, n_items
        n_items -= 1


def fit_prompt(prompt: Prompt, model: Any, n_answer: int) -> Prompt:
    """A prompt that leaves a model room for an answer, of which it feeds `n_answer` tokens back: a
    contract may allow more than the model has positions. Raises DataError if there is no room.

    An encoder has positions of its own, which only the prompt takes."""
    room = max_positions(model)
    if prompt is None or room is None:
        return prompt
    if not is_encoder_decoder(model):
        room -= n_answer
    if room < 1:
        raise DataError(f"the model has no position before an answer of task {prompt.task}")
    return replace(prompt, max_length=min(room, prompt.max_length))


def history_prompt_ids(
    prompt: HistoryPrompt,
    tokenizer: Any,
    tokens: SidTokens,
    history: Codes,
    titles: Sequence[str] | None = None,
    fields: Fields = NO_FIELDS,
) -> list[int]:
    """Token ids of the prompt that recommends the next item of a history, as in its training
    examples.

    `history` is (n, levels) codes, oldest first; `titles`, those of the same items, are needed if
    the prompt shows titles, and `fields` if it shows fields. Raises UsageError if titles are
    missing, DataError if a field is."""
    encoder = prompt_encoder(tokenizer, tokens)
    ending = [begin(tokens.space)]
    if prompt.is_sequence and prompt.item:
        separator = [template(prompt.separator)] if len(history) else []
        opening_fields = fields if len(history) or fields.times else replace(fields, times=())
        opening = frame_segments(prompt.opening, opening_fields, prompt.frame.tokens)
        ending = [*separator, *opening, *ending]
    segments, _ = _assemble_newest(prompt, encoder, history, titles, fields, ending)
    return encoder.ids(segments)


def label_prompt_ids(
    prompt: LabelPrompt, tokenizer: Any, tokens: SidTokens, items: Codes, fields: Fields = NO_FIELDS
) -> list[int]:
    """Token ids of the prompt that asks for the label of the last one of these items, as in its
    training examples.

    `items` is (n, levels) codes, oldest first; `fields` are those of n events, of which the last is
    that item's (`Fields.with_next`). Raises DataError if a field that the prompt shows is missing,
    or if the last item does not fit."""
    encoder = prompt_encoder(tokenizer, tokens)
    segments, n_items = _assemble_newest(prompt, encoder, items, None, fields, ())
    if not n_items:
        raise DataError(
            f"a prompt of task {prompt.task} does not fit {prompt.max_length} tokens",
            hint="train the model with a larger --max-length",
        )
    return encoder.ids(segments)


def _assemble_newest(
    prompt: HistoryPrompt,
    encoder: PromptEncoder,
    history: Codes,
    titles: Sequence[str] | None,
    fields: Fields,
    ending: Sequence[Segment],
) -> tuple[list[Segment], int]:
    """A prompt of the last `history_length` items that fit, and their number."""
    recent_titles = None
    if prompt.history_as == "title":
        if titles is None or len(titles) != len(history):
            n_titles = 0 if titles is None else len(titles)
            raise UsageError(f"the prompt needs titles: {len(history)} items, {n_titles} titles")
        recent_titles = titles[-prompt.history_length :]
    return assemble_history(
        prompt.frame,
        encoder.tokens.space,
        history[-prompt.history_length :],
        recent_titles,
        fields,
        ending,
        encoder=encoder,
        max_tokens=prompt.max_length,
    )


def text_prompt_ids(prompt: TextPrompt, tokenizer: Any, tokens: SidTokens, text: str) -> list[int]:
    """Token ids of the prompt that recommends the item which a text describes, as in its training
    examples; the end of a text that does not fit is cut off.

    Raises UsageError if the text is empty."""
    encoder = prompt_encoder(tokenizer, tokens)
    content = catalog(item_text(text))
    text_ids = encoder.ids([content])
    if not text_ids:
        raise UsageError("the query text is empty", hint="describe the item in words")
    segments, _ = assemble_prompt(prompt.frame, [[content]], [begin(tokens.space)])
    ids = encoder.ids(segments)
    # at least one token of the text stays
    excess = min(len(ids) - prompt.max_length, len(text_ids) - 1)
    if excess <= 0:
        return ids
    text_stop = encoder.length(segments[:2])  # the text is the second segment
    return ids[: text_stop - excess] + ids[text_stop:]
