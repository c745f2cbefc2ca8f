"""Segments, the pieces of a prompt, and their token ids by one tokenizer.

There are three kinds, tokenized in different ways, so that data can never act as markup: template
text (special tokens allowed), catalog text (never a special token) and SID tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

from sidtool.base.checkpoint import loading
from sidtool.base.errors import DataError, UsageError, first_line
from sidtool.model.vocabulary.tokens import NO_TOKEN, SidTokens, sid_token_indexes
from sidtool.tokenizer.sid import Codes, SidSpace


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


def sids(space: SidSpace, codes: Codes, *, behind_begin: bool = False) -> Segment:
    """(n, levels) codes as n consecutive SIDs, each between a begin and an end token if the
    vocabulary has them; the first one without its begin token if the prompt ends with that
    (`behind_begin`)."""
    tokens = sid_token_indexes(space, codes).ravel()
    if behind_begin and space.has_begin_end_tokens:
        tokens = tokens[1:]
    return Segment("sid", sid_tokens=tuple(tokens.tolist()))


def begin(space: SidSpace) -> Segment:
    """The begin token, which ends a prompt that a SID completes; empty if the space has none."""
    return Segment("sid", sid_tokens=(space.n_codes,) if space.has_begin_end_tokens else ())


METASPACE = "\u2581"
"""The character that SentencePiece puts in place of a space."""


class PromptEncoder:
    """Turns segments into token ids, for one tokenizer with a block of SID tokens.

    Raises UsageError if the tokenizer is a slow one, which cannot ignore added tokens."""

    def __init__(self, tokenizer: Any, tokens: SidTokens) -> None:
        self.tokens = tokens
        self.begin_id: int | None = tokenizer.bos_token_id
        self._tokenizer = tokenizer
        text_tokens = _text_tokens(tokenizer, tokens)
        self._plain_backend = _backend_with_added_tokens(tokenizer, text_tokens)
        # the copy of the backend may number added tokens anew
        copied = {
            token_id: self._plain_backend.token_to_id(content)
            for token_id, content in text_tokens.items()
        }
        self._true_ids = {copy: token_id for token_id, copy in copied.items() if copy != token_id}
        self._special_ids = _special_ids(tokenizer) - text_tokens.keys()
        self._sid_token_ids: list[int] = tokens.token_ids.tolist()
        # Templates repeat in every prompt, titles in many histories.
        self._template_ids = lru_cache(4096)(self._encode_template)
        self._catalog_ids = lru_cache(1 << 16)(self._encode_catalog)

    def ids(self, segments: Sequence[Segment]) -> list[int]:
        """Token ids of the segments, one after the other. Raises DataError for a code without a
        token."""
        ids: list[int] = []
        for segment in segments:
            if segment.kind != "sid":
                ids.extend(self._text_ids(segment))
                continue
            sid_ids = [self._sid_token_ids[index] for index in segment.sid_tokens]
            if NO_TOKEN in sid_ids:
                lacking = segment.sid_tokens[sid_ids.index(NO_TOKEN)]
                raise DataError(
                    f"the model has no token for {self.tokens.space.tokens[lacking]}",
                    hint="sidtool make-sft --model leaves out the items with this code",
                )
            ids.extend(sid_ids)
        return ids

    def length(self, segments: Sequence[Segment]) -> int:
        """Number of tokens in the segments."""
        length = 0
        for segment in segments:
            is_sid = segment.kind == "sid"
            length += len(segment.sid_tokens if is_sid else self._text_ids(segment))
        return length

    def _text_ids(self, segment: Segment) -> tuple[int, ...]:
        encode = self._template_ids if segment.kind == "template" else self._catalog_ids
        try:
            return encode(segment.text)
        except Exception as error:  # a damaged tokenizer raises anything
            name = getattr(self._tokenizer, "name_or_path", "")
            raise DataError(
                f"the tokenizer of {name} cannot encode a text: {first_line(error)}"
            ) from error

    def _encode_template(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_catalog(self, text: str) -> tuple[int, ...]:
        """Ids of catalog text, none of them of a special token or of an added one with meaning."""
        encoding = self._plain_backend.encode(text, add_special_tokens=False)
        ids = tuple(encoding.ids)
        if self._true_ids:
            ids = tuple(self._true_ids.get(token_id, token_id) for token_id in ids)
        special = [n for n, token_id in enumerate(ids) if token_id in self._special_ids]
        if not special:
            return ids
        if len(text) == 1:
            return ()  # nothing else spells this character
        # The base vocabulary contains this special token, too. Cut the text within it and encode
        # both parts, so that no token spans the cut.
        start, stop = encoding.offsets[special[0]]
        cut = (start + stop) // 2
        if not 0 < cut < len(text):
            cut = len(text) // 2
        return self._encode_catalog(text[:cut]) + self._encode_catalog(text[cut:])


_encoders: WeakKeyDictionary[Any, tuple[int, PromptEncoder]] = WeakKeyDictionary()


def prompt_encoder(tokenizer: Any, tokens: SidTokens) -> PromptEncoder:
    """The encoder of a tokenizer, cached with it: making one takes a second at 150,000 tokens."""
    size, encoder = _encoders.get(tokenizer, (0, None))
    # Tokens may have been added since.
    if encoder is None or size != len(tokenizer) or encoder.tokens != tokens:
        encoder = PromptEncoder(tokenizer, tokens)
        _encoders[tokenizer] = (len(tokenizer), encoder)
    return encoder


def _text_tokens(tokenizer: Any, tokens: SidTokens) -> dict[int, str]:
    """The added tokens that only spell text, by id: white space and single characters.

    Gemma's tokenizers have line feeds, tabs and runs of spaces as added tokens, and no other token
    for the first two."""
    control = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    control.update(tokens.token_ids.tolist())
    return {
        token_id: token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if not token.special
        and token_id not in control
        and (len(token.content) == 1 or not token.content.replace(METASPACE, " ").strip())
    }


def _backend_with_added_tokens(tokenizer: Any, text_tokens: Mapping[int, str]) -> Any:
    """A copy of a fast tokenizer's backend with only these of its added tokens."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(f"{type(tokenizer).__name__} is a slow tokenizer, a fast one is needed")
    value = json.loads(backend.to_str())
    added = [token for token in value["added_tokens"] if token["id"] in text_tokens]
    value.update(added_tokens=added, post_processor=None, truncation=None, padding=None)
    with loading(getattr(tokenizer, "name_or_path", ""), "as a tokenizer"):
        return Tokenizer.from_str(json.dumps(value))


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of all added tokens but a pure unknown token, which unknown characters may become."""
    ids = set(tokenizer.added_tokens_decoder)
    control = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if tokenizer.unk_token_id not in control:
        ids.discard(tokenizer.unk_token_id)
    return frozenset(ids)
