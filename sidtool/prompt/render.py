"""From pieces of a prompt to token ids, and to the text of a training row and back.

A prompt is a list of segments of three kinds, each tokenized in its own way, so that data can never
pose as markup: template text (special tokens allowed), catalog text (tokenized without any added
token) and SID tokens (ids by arithmetic). Knows what the kinds mean to a tokenizer; knows nothing
of tasks, items or models."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

from sidtool.errors import DataError, UsageError
from sidtool.prompt.serving import ITEM_SLOT, Asking, Serving
from sidtool.prompt.tokens import SidTokens
from sidtool.sid import Codes, SidSpace

TEXT_CHARACTERS = 400
"""A longer title, description or query is cut at a word before it is rendered, in rows and when
serving alike: so the answer is what a row shows of it, and two of them fit into a row."""

Span = tuple[int, int]
"""Where catalog text starts and stops in a row's text, in characters."""


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt: text of the template or of the catalog, or tokens of the SID block by
    their place."""

    kind: Literal["template", "catalog", "sid"]
    text: str = ""
    places: tuple[int, ...] = ()


def template(text: str) -> Segment:
    """Text written by us: special tokens in it are special."""
    return Segment("template", text)


def shortened(text: str) -> str:
    """A text of the catalog in one line and cut at a word, as it is shown."""
    text = " ".join(text.split())
    if len(text) <= TEXT_CHARACTERS:
        return text
    return text[:TEXT_CHARACTERS].rpartition(" ")[0] or text[:TEXT_CHARACTERS]


def catalog(text: str) -> Segment:
    """Text written by others: whatever it spells, it is only text."""
    return Segment("catalog", text)


def sids(space: SidSpace, codes: Codes, *, markers: bool) -> Segment:
    """(n, levels) codes as n SIDs in a row, wrapped in markers where asked for and the space has
    them."""
    return Segment(
        "sid", places=tuple(SidTokens(space, 0).ids(codes, markers=markers).ravel().tolist())
    )


def begin(space: SidSpace, *, markers: bool) -> Segment:
    """What a prompt whose answer is a SID ends with: the begin marker, or nothing."""
    return Segment("sid", places=(space.n_codes,) if markers and space.has_markers else ())


def end(space: SidSpace, *, markers: bool) -> Segment:
    """What follows the codes of an answer: the end marker, or nothing."""
    return Segment("sid", places=(space.n_codes + 1,) if markers and space.has_markers else ())


def spell(space: SidSpace, segments: Sequence[Segment]) -> tuple[str, list[Span]]:
    """Segments as the text of a row and the spans of its catalog text."""
    text, spans = "", []
    for segment in segments:
        piece = segment.text or "".join(space.tokens[place] for place in segment.places)
        if segment.kind == "catalog" and piece:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    return text, spans


def unspell(space: SidSpace, text: str, spans: Sequence[Span] = ()) -> list[Segment]:
    """The segments of a row's text: the inverse of `spell`. Raises DataError if the spans are not
    in order."""
    segments: list[Segment] = []
    at = 0
    for start, stop in [*spans, (len(text), len(text))]:
        if not at <= start <= stop <= len(text):
            raise DataError(
                f"catalog span {start}..{stop} does not fit a text of {len(text)} characters"
            )
        segments.extend(_markup(space, text[at:start]))
        segments.extend([catalog(text[start:stop])] if stop > start else [])
        at = stop
    return segments


def _markup(space: SidSpace, text: str) -> Iterator[Segment]:
    places = _places(space)
    at, run = 0, list[int]()
    for match in _sid_token(space).finditer(text):
        if match.group() not in places:
            continue
        if match.start() > at:
            yield from [Segment("sid", places=tuple(run))] * bool(run)
            yield template(text[at : match.start()])
            run = []
        run.append(places[match.group()])
        at = match.end()
    yield from [Segment("sid", places=tuple(run))] * bool(run)
    yield from [template(text[at:])] * (at < len(text))


@cache
def _places(space: SidSpace) -> Mapping[str, int]:
    return {token: place for place, token in enumerate(space.tokens)}


@cache
def _sid_token(space: SidSpace) -> re.Pattern[str]:
    code = (
        re.escape(space.template).replace(r"\{level\}", "[a-z]").replace(r"\{code\}", "[0-9]{1,5}")
    )
    return re.compile(
        "|".join([code, *(re.escape(marker) for marker in (space.begin, space.end) if marker)])
    )


class PromptEncoder:
    """Segments -> token ids, for one tokenizer and the place of its SID block.

    Raises UsageError if the tokenizer is not a fast one: the slow ones cannot be asked to ignore
    added tokens."""

    def __init__(self, tokenizer: Any, tokens: SidTokens) -> None:
        self._tokenizer, self.tokens = tokenizer, tokens
        self._plain = _plain_backend(tokenizer)
        self._forbidden = _forbidden_ids(tokenizer)
        self._template = lru_cache(4096)(self._encode_template)  # templates repeat in every row
        self._catalog = lru_cache(1 << 16)(self._encode_catalog)  # and so do titles in histories

    def ids(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of the segments, one after the other."""
        ids: list[int] = []
        for segment in segments:
            if segment.kind == "sid":
                ids.extend(self.tokens.start + place for place in segment.places)
            else:
                encode = self._template if segment.kind == "template" else self._catalog
                ids.extend(encode(segment.text))
        return ids

    def catalog(self, text: str) -> list[int]:
        """Ids of catalog text: never one of an added or special token, whatever the text spells."""
        return list(self._catalog(text))

    def _encode_catalog(self, text: str) -> tuple[int, ...]:
        encoding = self._plain.encode(text, add_special_tokens=False)
        bad = next((i for i, token in enumerate(encoding.ids) if token in self._forbidden), None)
        if bad is None:
            return tuple(encoding.ids)
        # the base vocabulary knows this special token too: no token may span its middle, so encode
        # the halves apart
        start, stop = encoding.offsets[bad]
        middle = (start + stop) // 2
        if not 0 < middle < len(text):
            middle = len(text) // 2
        return (
            (*self._encode_catalog(text[:middle]), *self._encode_catalog(text[middle:]))
            if len(text) > 1
            else ()
        )

    def _encode_template(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


_encoders: WeakKeyDictionary[Any, tuple[int, PromptEncoder]] = WeakKeyDictionary()


def prompt_encoder(tokenizer: Any, tokens: SidTokens) -> PromptEncoder:
    """The encoder of a tokenizer, kept as long as the tokenizer lives (making one takes a second at
    150,000 tokens)."""
    size, encoder = _encoders.get(tokenizer, (0, None))
    if encoder is None or size != len(tokenizer) or encoder.tokens != tokens:
        encoder = PromptEncoder(tokenizer, tokens)
        _encoders[tokenizer] = (len(tokenizer), encoder)
    return encoder


def encode_catalog_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of catalog text: never an added or special token, whatever the text spells."""
    size, encoder = _encoders.get(
        tokenizer, (0, None)
    )  # the block does not matter here: take any encoder there is
    if encoder is None or size != len(tokenizer):
        encoder = prompt_encoder(tokenizer, SidTokens(SidSpace((1,)), 0))
    return encoder.catalog(text)


def prompt_ids(
    serving: Serving,
    tokenizer: Any,
    tokens: SidTokens,
    history: Codes,
    titles: Sequence[str] | None = None,
) -> list[int]:
    """The prompt that asks for the next item of a history (codes (n, levels), oldest first), as its
    rows had it.

    Only the last `serving.history_length` items enter, and of these only as many as fit into
    `serving.max_length` tokens. Raises UsageError if the model is served with titles and none are
    given."""
    encoder = prompt_encoder(tokenizer, tokens)
    if serving.history_as == "title":
        if titles is None or len(titles) != len(history):
            raise UsageError(f"the model is served with titles: {len(history)} items came without")
        items = [encoder.catalog(shortened(title)) for title in titles[-serving.history_length :]]
    else:
        items = tokens.ids(history[-serving.history_length :], markers=serving.markers).tolist()
    before, after, joint = (
        encoder.ids([template(text)]) for text in (serving.before, serving.after, serving.separator)
    )
    after = after + encoder.ids([begin(tokens.space, markers=serving.markers)])
    room = serving.max_length - len(before) - len(after)
    fits = fitting([len(item) for item in items], room, len(joint))
    return before + _join(items[len(items) - fits :], joint) + after


def text_prompt_ids(asking: Asking, tokenizer: Any, tokens: SidTokens, text: str) -> list[int]:
    """The prompt that asks for the item which a text means, as its rows had it; a text that does
    not fit is cut.

    Raises UsageError if the text is empty.
    """
    encoder = prompt_encoder(tokenizer, tokens)
    asked = encoder.catalog(shortened(text))
    if not asked:
        raise UsageError("the text is empty", hint="say what is looked for")
    before, after = (encoder.ids([template(part)]) for part in asking.template.split(ITEM_SLOT))
    after = after + encoder.ids([begin(tokens.space, markers=asking.markers)])
    return before + asked[: max(1, asking.max_length - len(before) - len(after))] + after


def fitting(lengths: Sequence[int], room: int, joint: int) -> int:
    """How many of the last items, of these lengths, take at most `room` tokens with `joint` between
    two of them."""
    taken = 0
    for n, length in enumerate(reversed(lengths)):
        taken += length + (joint if n else 0)
        if taken > room:
            return n
    return len(lengths)


def _join(items: Sequence[Sequence[int]], joint: Sequence[int]) -> list[int]:
    ids: list[int] = []
    for n, item in enumerate(items):
        ids.extend([*joint, *item] if n else item)
    return ids


def _plain_backend(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer's backend that knows no added token."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(f"{type(tokenizer).__name__} has no fast form, and catalog text needs one")
    value = json.loads(backend.to_str())
    value.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    return Tokenizer.from_str(json.dumps(value))


def _forbidden_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that catalog text must not become. A pure unknown token is what unknown characters
    rightly become."""
    added = set(tokenizer.added_tokens_decoder)
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return frozenset(added - ({tokenizer.unk_token_id} - ends))
