"""Token ids of semantic IDs by arithmetic: the start of the token block plus an offset.

Adding offsets takes 0.5 us for a history of 20 items, tokenizing its text 225 us."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sidtool.sid import Codes, SidSpace


def sid_token_indexes(
    space: SidSpace, codes: Codes, *, begin_end_tokens: bool = True
) -> NDArray[np.int64]:
    """(n, levels) codes -> (n, levels [+ 2]) int64 indexes into `space.tokens`.

    With `begin_end_tokens`, each SID is between a begin and an end token if the vocabulary has
    them."""
    indexes = codes + space.offsets  # uint16 + int64 -> int64
    if not (begin_end_tokens and space.has_begin_end_tokens):
        return indexes
    wrapped = np.empty((len(codes), space.levels + 2), dtype=np.int64)
    wrapped[:, 0] = space.n_codes
    wrapped[:, 1:-1] = indexes
    wrapped[:, -1] = space.n_codes + 1
    return wrapped


@dataclass(frozen=True)
class SidTokens:
    """The tokens of a space in one tokenizer: a block of ids that begins at `start`."""

    space: SidSpace
    start: int

    @property
    def stop(self) -> int:
        """One past the last id of the block, begin and end token included."""
        return self.start + len(self.space.tokens)

    @cached_property
    def level_starts(self) -> NDArray[np.int64]:
        """(levels,) int64: the id of code 0 of each level."""
        return self.space.offsets + self.start

    @property
    def begin(self) -> int | None:
        """Id of the begin token, or None."""
        if not self.space.has_begin_end_tokens:
            return None
        return self.start + self.space.n_codes

    @property
    def end(self) -> int | None:
        """Id of the end token, or None."""
        if not self.space.has_begin_end_tokens:
            return None
        return self.start + self.space.n_codes + 1

    def ids(self, codes: Codes, *, begin_end_tokens: bool = True) -> NDArray[np.int64]:
        """(n, levels) codes -> (n, levels [+ 2]) int64 token ids, as in `sid_token_indexes`."""
        return sid_token_indexes(self.space, codes, begin_end_tokens=begin_end_tokens) + self.start

    def codes(self, ids: NDArray[np.int64]) -> Codes:
        """(n, levels) ids of code tokens -> (n, levels) codes."""
        return (ids - self.level_starts).astype(np.uint16)
