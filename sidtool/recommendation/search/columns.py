"""The columns of the vocabulary in which the codes of a level have their logits, as tensors on one
device.

Codes are columns by their position if the tokens are a block. A table of token ids adds a gather by
two small arrays; logits are computed for a slice of the head all the same if the ids of a level are
neighbors, in any order, as they are where tokens were sorted by their text."""

from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.model.vocabulary import NO_TOKEN, SidTokens

Columns: TypeAlias = tuple[int, int] | torch.Tensor
"""First and stop of a range of token ids, or ascending ids (n,) int64."""

_on_device: WeakKeyDictionary[SidTokens, dict[Any, "TokenColumns"]] = WeakKeyDictionary()


def part_of(columns: Columns) -> slice | torch.Tensor:
    """The index of the columns in an axis of the whole vocabulary."""
    return slice(*columns) if isinstance(columns, tuple) else columns


def places_in(columns: Columns | None, ids: torch.Tensor) -> torch.Tensor:
    """(...) token ids, all of them among the columns -> (...) their positions in a block of logits
    of these columns; None is the whole vocabulary."""
    if columns is None:
        return ids
    if isinstance(columns, tuple):
        return ids - columns[0]
    return torch.searchsorted(columns, ids)


def token_columns(tokens: SidTokens, device: Any) -> "TokenColumns":
    """The columns of a SID vocabulary on a device, cached."""
    cached = _on_device.setdefault(tokens, {})
    if device not in cached:
        cached[device] = TokenColumns(tokens, device)
    return cached[device]


class LevelColumns:
    """The columns of one level's codes. A code without a token has none."""

    def __init__(self, ids: NDArray[np.int64], device: Any, *, is_block: bool) -> None:
        """`ids` (size,) are those of the codes, -1 for a code without a token."""
        codes = np.flatnonzero(ids != NO_TOKEN)
        first = int(ids[codes].min())
        stop = int(ids[codes].max()) + 1
        self.columns: Columns = (first, stop)
        self._place_of_code: torch.Tensor | None = None
        self._code_of_place: torch.Tensor | None = None
        if is_block:
            return
        code_of_place = codes[np.argsort(ids[codes])]
        if len(codes) < stop - first:  # other tokens stand between those of the codes
            self.columns = torch.from_numpy(ids[code_of_place]).to(device)
        # -1 is no index: nothing may gather the logit of a code without a token
        place_of_code = np.full(len(ids), -1, dtype=np.int64)
        place_of_code[code_of_place] = np.arange(len(codes))
        self._place_of_code = torch.from_numpy(place_of_code).to(device)
        self._code_of_place = torch.from_numpy(code_of_place).to(device)

    def contains(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) token ids -> (...) bool: which are among the columns."""
        if isinstance(self.columns, tuple):
            return (ids >= self.columns[0]) & (ids < self.columns[1])
        return torch.isin(ids, self.columns)

    def places(self, codes: torch.Tensor) -> torch.Tensor:
        """(...) int64 codes -> (...) their positions in a block of logits of `columns`."""
        return codes if self._place_of_code is None else self._place_of_code[codes]

    def ids(self, codes: torch.Tensor) -> torch.Tensor:
        """(...) int64 codes -> (...) token ids."""
        places = self.places(codes)
        if isinstance(self.columns, tuple):
            return places + self.columns[0]
        return self.columns[places]

    def codes_at(self, places: torch.Tensor) -> torch.Tensor:
        """(...) positions in a block of logits of `columns` -> (...) codes."""
        return places if self._code_of_place is None else self._code_of_place[places]


class TokenColumns:
    """The columns of each level, and those of all codes."""

    def __init__(self, tokens: SidTokens, device: Any) -> None:
        is_block = tokens.table is None
        self.levels = [LevelColumns(ids, device, is_block=is_block) for ids in tokens.level_ids]
        every_id = tokens.token_ids[: tokens.space.n_codes]
        self.all_codes = LevelColumns(every_id, device, is_block=is_block).columns
        self._start = tokens.start
        edges = [*tokens.space.offsets.tolist(), tokens.space.n_codes]
        self._edges = torch.tensor(edges, device=device)
        """(levels + 1,): the index of each level's first code among all tokens of the space"""
        self._index_of_id: torch.Tensor | None = None
        """(stop - start,): the index of each token id from `start` on, -1 for other tokens"""
        if tokens.table is not None:
            self._index_of_id = torch.from_numpy(tokens.index_of_id).to(device)

    def ids(self, codes: torch.Tensor) -> torch.Tensor:
        """(..., depth) int64 codes of the first levels -> (..., depth) token ids."""
        columns = zip(self.levels, codes.unbind(-1), strict=False)
        ids = [level.ids(level_codes) for level, level_codes in columns]
        return torch.stack(ids, dim=-1) if ids else codes  # none precede the code of one level

    def locate(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(...) any token ids -> (...) the level of each, -1 or the number of levels where it is no
        code, and (...) its code there."""
        indexes = ids - self._start  # among all tokens of the space, if they are a block
        if self._index_of_id is not None:
            is_inside = (indexes >= 0) & (indexes < len(self._index_of_id))
            code_indexes = self._index_of_id[torch.where(is_inside, indexes, 0)]
            indexes = torch.where(is_inside, code_indexes, -1)
        levels = torch.searchsorted(self._edges, indexes, right=True) - 1
        return levels, indexes - self._edges[levels.clamp_min(0)]
