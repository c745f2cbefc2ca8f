"""The JSON Lines form of training examples: its writer and its readers, as objects and as tokens.

An example is `{task, prompt, completion}` or `{task, text}`; `user` is the user whose events it
shows, if it shows events; `catalog` lists the character spans of catalog text, which never becomes
SID or special tokens. `weight` is the weight of the loss: one number, or one for each SID of the
example."""

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.records import is_number
from sidtool.data.tables import as_url, json_lines
from sidtool.examples.task import LARGEST_WEIGHT, TrainingExample
from sidtool.examples.tasks import find_task
from sidtool.model.prompt import PromptEncoder, Segment, catalog, template
from sidtool.model.vocabulary import UserTokens
from sidtool.tokenizer.sid import SidSpace

FORMS = (("text",), ("prompt", "completion"))
"""The texts that an example has."""

Span = tuple[int, int]
"""Start and stop of catalog text within a text, in characters."""


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
    """The segments of a text, inverse of `segments_to_text`: SIDs outside of `spans`, which are in
    order and within the text, are SID tokens."""
    segments: list[Segment] = []
    position = 0
    for start, stop in spans:
        segments.extend(_split_markup(space, text[position:start]))
        if stop > start:
            segments.append(catalog(text[start:stop]))
        position = stop
    segments.extend(_split_markup(space, text[position:]))
    return segments


def _split_markup(space: SidSpace, text: str) -> Iterator[Segment]:
    """Template text and runs of SID tokens, in order."""
    token_indexes, pattern = _sid_tokens(space)
    # a text that looks like a SID token, but whose level or code does not exist, is template text
    pieces_of_text = filter(None, pattern.split(text))
    for is_sid, pieces in groupby(pieces_of_text, token_indexes.__contains__):
        if is_sid:
            yield Segment("sid", sid_tokens=tuple(token_indexes[piece] for piece in pieces))
        else:
            yield template("".join(pieces))


@cache
def _sid_tokens(space: SidSpace) -> tuple[Mapping[str, int], re.Pattern[str]]:
    """The index of each SID token, and what divides a text at what is spelled like one."""
    begin_and_end = [re.escape(token) for token in (space.begin, space.end) if token]
    spelled = "|".join([space.pattern.pattern, *begin_and_end])
    pattern = re.compile(f"({re.sub(r'[(][?]P<[a-z]+>', '(?:', spelled)})")  # one group: the whole
    return {token: index for index, token in enumerate(space.tokens)}, pattern


def example_json(
    space: SidSpace, example: TrainingExample, weight: float | list[float] | None = None
) -> dict[str, Any]:
    """The JSON object of an example, with its weight if it has one."""
    sides = {"text": example.completion}
    if example.prompt:
        sides = {"prompt": example.prompt, "completion": example.completion}
    value: dict[str, Any] = {"task": example.task}
    if example.events:
        value["user"] = example.events[0][0]
    spans: dict[str, list[Span]] = {}
    for side, segments in sides.items():
        value[side], catalog_spans = segments_to_text(space, segments)
        if catalog_spans:
            spans[side] = catalog_spans
    if spans:
        value["catalog"] = spans
    if weight is not None:
        value["weight"] = weight
    return value


def prompt_and_completion(
    example: Mapping[str, Any], space: SidSpace
) -> tuple[list[Segment], list[Segment]]:
    """The segments of the JSON object of an example, as `read_training_examples` gives it; the
    prompt of a text is empty."""
    spans = example.get("catalog", {})
    sides = next(sides for sides in FORMS if _has_texts(example, sides))
    *prompt, completion = (
        text_to_segments(space, example[side], spans.get(side, ())) for side in sides
    )
    return prompt[0] if prompt else [], completion


def read_training_examples(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one per line.

    Raises DataError if the file cannot be read, or with the number of the line if a line is no
    training example."""
    for number, example in json_lines(path):
        if problem := problem_of(example):
            raise DataError(f"{path}:{number} {problem}")
        yield example


def problem_of(example: Any) -> str:
    """Why a JSON value is no training example; empty if it is one."""
    if not isinstance(example, dict):
        return "is no JSON object"
    if not isinstance(example.get("task"), str):
        return "has no task"
    if not isinstance(example.get("user", ""), str):
        return f"has user {example['user']!r}, not an id"
    if not any(_has_texts(example, sides) for sides in FORMS):
        return f"has the keys {sorted(example)}, not prompt and completion, or text"
    weight = example.get("weight", 1)
    weights = weight if isinstance(weight, list) else [weight]
    if not weights or not all(is_number(n) and 0 <= n <= LARGEST_WEIGHT for n in weights):
        return "has a weight that is neither a number from 0 nor a list of such numbers"
    spans_by_side = example.get("catalog", {})
    if not isinstance(spans_by_side, dict):
        return "has a catalog that is no object of spans"
    for side, spans in spans_by_side.items():
        text = example.get(side)
        if not isinstance(text, str) or not _are_spans(spans, len(text)):
            return f"has catalog spans that are not in the order of its {side!r}, or outside of it"
    return ""


def _has_texts(example: Mapping[str, Any], sides: Sequence[str]) -> bool:
    return all(isinstance(example.get(side), str) for side in sides)


def _are_spans(spans: Any, length: int) -> bool:
    """Whether a JSON value is a list of spans in order, within a text of `length` characters."""
    if not isinstance(spans, list) or not all(isinstance(span, list) for span in spans):
        return False
    if any([type(number) for number in span] != [int, int] for span in spans):
        return False
    numbers = [0, *(number for span in spans for number in span), length]
    return numbers == sorted(numbers)


class TokenizedExample(NamedTuple):
    """One training example of n tokens."""

    ids: NDArray[np.int32]
    """(n,) token ids"""
    targets: NDArray[np.bool_]
    """(n,): whether each is a target"""
    weights: NDArray[np.float32]
    """(n,): the weight of the loss at each token, if it is a target"""
    is_sequence: bool = False
    """whether each target item is the answer to what precedes it; else all targets are one
    answer"""
    is_reversed: bool = False
    """whether augmentation reversed the order of its items"""


def encode_example(
    example: Mapping[str, Any], encoder: PromptEncoder, *, codes_only: bool
) -> TokenizedExample:
    """The token ids of a stored example, its targets (the completion, or its codes alone) and their
    weights.

    Only codes are targets in item sequences and, with `codes_only`, in all examples. The first
    token is never a target, since nothing comes before it. Raises DataError if the example is
    malformed."""
    tokens = encoder.tokens
    prompt, completion = prompt_and_completion(example, tokens.space)
    prompt_ids = encoder.ids(prompt)
    ids = np.array(prompt_ids + encoder.ids(completion), dtype=np.int32)
    targets = np.arange(len(ids)) >= max(1, len(prompt_ids))
    # begin and end tokens, which follow from the position, and closing text are no targets then
    task = find_task(str(example.get("task")))
    is_sequence = task is not None and task.is_sequence
    if codes_only or is_sequence:
        targets &= tokens.is_code(ids)
    weight = example.get("weight", 1.0)
    if isinstance(weight, list):  # of each SID at its tokens and at text that follows it
        starts = np.flatnonzero(tokens.is_code(ids, 0)) - int(tokens.space.has_begin_end_tokens)
        if len(weight) != len(starts):
            raise DataError(f"an example has {len(weight)} weights and {len(starts)} SIDs")
        sid_of_token = np.searchsorted(starts, np.arange(len(ids)), side="right") - 1
        weights = np.array(weight, dtype=np.float32)[np.maximum(sid_of_token, 0)]
    else:
        weights = np.full(len(ids), weight, dtype=np.float32)
    return TokenizedExample(ids, targets, weights, is_sequence=is_sequence)


@dataclass(frozen=True)
class TokenizedExamples:
    """n examples in flat arrays.

    A plain sequence, because a `datasets.Dataset` formats every example again in every epoch."""

    ids: NDArray[np.int32]
    """(tokens,)"""
    targets: NDArray[np.bool_]
    """(tokens,)"""
    weights: NDArray[np.float32]
    """(tokens,)"""
    offsets: NDArray[np.int64]
    """(n + 1,): example i is at offsets[i]:offsets[i + 1]"""
    is_sequence: NDArray[np.bool_]
    """(n,): as in `TokenizedExample`"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> TokenizedExample:
        span = slice(self.offsets[number], self.offsets[number + 1])
        parts = self.ids[span], self.targets[span], self.weights[span]
        return TokenizedExample(*parts, is_sequence=bool(self.is_sequence[number]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) int64: tokens of each example."""
        return np.diff(self.offsets)

    @classmethod
    def read(
        cls,
        path: Path,
        encoder: PromptEncoder,
        *,
        codes_only: bool,
        after_prompts: bool = False,
        user_tokens: UserTokens | None = None,
        examples: Iterable[Mapping[str, Any]] | None = None,
    ) -> "TokenizedExamples":
        """Tokenize a file of training examples; examples without a target of a weight above 0 are
        left out, and, with `after_prompts`, item sequences without one behind their first item,
        which nothing precedes. With `user_tokens`, the examples of a user's history begin with the
        user's token; those of queries do not, since a search has no user. `examples` are some that
        were read from `path` already, perhaps none.

        Raises DataError, with the line, for a malformed example, and if no example of the file has
        a target."""
        ids = array("i")
        targets = bytearray()
        weights = array("f")
        offsets = [0]
        is_sequence = bytearray()
        rows = read_training_examples(path) if examples is None else examples
        for number, example in enumerate(rows, start=1):
            try:
                encoded = encode_example(example, encoder, codes_only=codes_only)
            except DataError as error:
                line = f"{path}:{number}" if examples is None else f"an example of {as_url(path)}"
                raise DataError(f"{line}: {error}", hint=error.shell_hint) from error
            counted = encoded.targets & (encoded.weights > 0)
            if after_prompts and encoded.is_sequence:
                counted &= np.cumsum(encoder.tokens.is_code(encoded.ids, 0)) > 1
            # the codes of a history of one item may have nothing before them
            if not counted.any():
                continue
            task = find_task(example["task"])
            has_user = task is not None and task.of_users and example.get("user")
            if user_tokens is not None and has_user:
                place = user_tokens.place(encoded.ids.tolist(), encoder.begin_id)
                encoded = encoded._replace(
                    ids=np.insert(encoded.ids, place, user_tokens.id(example["user"])),
                    targets=np.insert(encoded.targets, place, False),
                    weights=np.insert(encoded.weights, place, 1),
                )
            ids.frombytes(encoded.ids.tobytes())
            targets += encoded.targets.tobytes()
            weights.frombytes(encoded.weights.tobytes())
            offsets.append(len(ids))
            is_sequence.append(encoded.is_sequence)
        if len(offsets) == 1 and examples is None:
            raise DataError(f"{path} has no training example with a target")
        return cls(
            np.frombuffer(ids, dtype=np.int32),
            np.frombuffer(targets, dtype=np.bool_),
            np.frombuffer(weights, dtype=np.float32),
            np.array(offsets, dtype=np.int64),
            np.frombuffer(is_sequence, dtype=np.bool_),
        )
