"""Questions of one task: a prompt and its correct answer, as segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidtool.base.errors import DataError
from sidtool.model.prompt.segments import Segment
from sidtool.tokenizer.sid import SidSpace

SidCodes = tuple[int, ...]
"""The codes of one SID, or of a prefix of it."""

GroupKey = tuple[object, ...]


@dataclass(frozen=True)
class Question:
    """A prompt and the correct answer. Without a prompt it is running text, all of which the model
    has to predict."""

    prompt: tuple[Segment, ...]
    answer: tuple[Segment, ...]
    group: GroupKey | None = None
    """Questions of one group show the model the same, so an answer that is correct for one of them
    is correct for all (items may share a title)."""

    @property
    def ends_in_sid(self) -> bool:
        """Whether the answer is a SID rather than a text."""
        return all(segment.kind != "catalog" for segment in self.answer)


def split_last_sid(space: SidSpace, question: Question) -> tuple[list[Segment], SidCodes]:
    """The segments before the codes of the last SID, and these codes. Of a whole history that is
    its last item.

    Raises DataError if there is no complete SID of the space."""
    segments = [*question.prompt, *question.answer]
    with_codes = [
        index
        for index, segment in enumerate(segments)
        if any(token < space.n_codes for token in segment.sid_tokens)
    ]
    if not with_codes:
        raise DataError(
            "a question has no SID of the model's bundle",
            hint="make the training examples with this bundle",
        )
    last = with_codes[-1]
    tokens = segments[last].sid_tokens
    # begin and end tokens have indexes from n_codes on: the SID stops behind the last code
    stop = max(count for count, token in enumerate(tokens, 1) if token < space.n_codes)
    start = max(0, stop - space.levels)
    code_tokens = np.array(tokens[start:stop], dtype=np.int64)
    codes = code_tokens - space.offsets[: len(code_tokens)]
    complete = len(codes) == space.levels
    if not complete or (codes < 0).any() or (codes >= space.sizes).any():
        raise DataError(
            "a question ends in an incomplete SID, or one that the model's bundle cannot have",
            hint="make the training examples with this bundle",
        )
    before = segments[:last]
    if start > 0:
        before.append(Segment("sid", sid_tokens=tokens[:start]))
    return before, tuple(codes.tolist())


def prefixes(codes: Sequence[int]) -> list[SidCodes]:
    """Every prefix of a SID, from one code to the whole."""
    return [tuple(codes[:level]) for level in range(1, len(codes) + 1)]
