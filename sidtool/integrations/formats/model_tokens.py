"""The token ids of a bundle's codes in one model, for engines that know tokens and not codes."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.tokenizer.sid import Codes


@dataclass(frozen=True)
class ModelTokens:
    """Token ids by level and code.

    A code that no token stands for has the id -1.
    """

    levels: tuple[NDArray[np.int64], ...]
    """(size,) int64 for each level"""
    begin_end: tuple[int, int] | None
    """ids of the begin and end token; None without them"""
    vocabulary: int
    """rows of the model's output head"""

    @property
    def block_start(self) -> int | None:
        """The first id, if all ids follow each other: level by level, then begin and end token.
        None otherwise."""
        ids = np.concatenate([*self.levels, self.begin_end or ()]).astype(np.int64)
        start = int(ids[0])
        is_block = np.array_equal(ids, np.arange(start, start + len(ids)))
        return start if is_block and start >= 0 else None

    def ids(self, codes: Codes) -> NDArray[np.int64]:
        """(n, levels) codes -> (n, levels) token ids."""
        columns = [ids[codes[:, level]] for level, ids in enumerate(self.levels)]
        return np.stack(columns, axis=1)

    def rows_with_tokens(self, codes: Codes, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` (n,) of which every code has a token; a SidtoolWarning counts the others.

        `codes` is (items, levels). Raises DataError if no row is left.
        """
        has_tokens = np.ones(len(rows), dtype=np.bool_)
        for level, ids in enumerate(self.levels):
            has_tokens &= ids[codes[rows, level]] >= 0
        missing = int(np.count_nonzero(~has_tokens))
        if missing == len(rows):
            raise DataError(f"the model has no tokens for the SIDs of all {missing} items")
        if missing:
            warnings.warn(
                f"{missing} of {len(rows)} items are left out: the model has no token for a code "
                "of their SID",
                SidtoolWarning,
                stacklevel=3,
            )
        return rows[has_tokens]
