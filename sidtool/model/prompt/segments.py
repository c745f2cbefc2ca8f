"""Segments, the pieces of a prompt, and their text form in a file of training examples.

There are three kinds, tokenized in different ways, so that data can never act as markup: template
text (special tokens allowed), catalog text (never a special token) and SID tokens."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from sidtool.base.errors import DataError
from sidtool.model.prompt.tokens import sid_token_indexes
from sidtool.tokenizer.sid import Codes, SidSpace

Span = tuple[int, int]
"""Start and stop of catalog text within a text, in characters."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt: `text` of a template or of the catalog, or SID tokens.

    `sid_tokens` are indexes into `SidSpace.tokens`."""

    kind: Literal["template", "catalog", "sid"]
    text: str = ""
    sid_tokens: tuple[int, ...] = ()


def template(text: str) -> Segment:
    """Text of a template: special tokens in it are special."""
    return Segment("template", text)


def catalog(text: str) -> Segment:
    """Text of a catalog or a user: never a special or SID token, whatever it contains."""
    return Segment("catalog", text)


def sids(space: SidSpace, codes: Codes, *, begin_end_tokens: bool = True) -> Segment:
    """(n, levels) codes as n consecutive SIDs.

    With `begin_end_tokens`, each SID is between a begin and an end token if the vocabulary has
    them."""
    indexes = sid_token_indexes(space, codes, begin_end_tokens=begin_end_tokens)
    return Segment("sid", sid_tokens=tuple(indexes.ravel().tolist()))


def begin(space: SidSpace) -> Segment:
    """The begin token, which ends a prompt that a SID completes; empty if the space has none."""
    return Segment("sid", sid_tokens=(space.n_codes,) if space.has_begin_end_tokens else ())


def end(space: SidSpace) -> Segment:
    """The end token, which follows the codes of a completion; empty if the space has none."""
    return Segment("sid", sid_tokens=(space.n_codes + 1,) if space.has_begin_end_tokens else ())


def segments_to_text(space: SidSpace, segments: Sequence[Segment]) -> tuple[str, list[Span]]:
    """The text of segments, and the spans of catalog text in it."""
    text = ""
    spans: list[Span] = []
    for segment in segments:
        piece = segment.text or "".join(space.tokens[token] for token in segment.sid_tokens)
        if segment.kind == "catalog" and piece:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    return text, spans


def text_to_segments(space: SidSpace, text: str, spans: Sequence[Span] = ()) -> list[Segment]:
    """The segments of a text, inverse of `segments_to_text`: SIDs outside `spans` are SID tokens.

    Raises DataError if the spans are out of order or exceed the text."""
    segments: list[Segment] = []
    position = 0
    for start, stop in spans:
        if not position <= start <= stop <= len(text):
            raise DataError(
                f"catalog span {start}..{stop} does not fit a text of {len(text)} characters"
            )
        segments.extend(_split_markup(space, text[position:start]))
        if stop > start:
            segments.append(catalog(text[start:stop]))
        position = stop
    segments.extend(_split_markup(space, text[position:]))
    return segments


def _split_markup(space: SidSpace, text: str) -> Iterator[Segment]:
    """Template text and runs of SID tokens, in order."""
    token_indexes = _token_indexes(space)
    position = 0
    run: list[int] = []
    for match in _sid_token_pattern(space).finditer(text):
        token = match.group()
        if token not in token_indexes:
            continue  # looks like a SID token, but its level or code does not exist
        if match.start() > position:
            if run:
                yield Segment("sid", sid_tokens=tuple(run))
                run = []
            yield template(text[position : match.start()])
        run.append(token_indexes[token])
        position = match.end()
    if run:
        yield Segment("sid", sid_tokens=tuple(run))
    if position < len(text):
        yield template(text[position:])


@cache
def _token_indexes(space: SidSpace) -> Mapping[str, int]:
    return {token: index for index, token in enumerate(space.tokens)}


@cache
def _sid_token_pattern(space: SidSpace) -> re.Pattern[str]:
    code = re.escape(space.template)
    code = code.replace(r"\{level\}", "[a-z]").replace(r"\{code\}", "[0-9]{1,5}")
    begin_and_end = [re.escape(token) for token in (space.begin, space.end) if token]
    return re.compile("|".join([code, *begin_and_end]))
