"""The token ids of a bundle's codes in one model, for engines that know tokens and not codes."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.checkpoint import CONFIG, MAX_TOKEN_ID, read_object
from sidtool.base.errors import CompatibilityError, DataError, SidtoolWarning
from sidtool.model import check_model_folder
from sidtool.model.contract import model_folder
from sidtool.tokenizer.bundle import Bundle
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


def model_tokens(model: str | Path, bundle: Bundle) -> ModelTokens:
    """The token ids of a bundle's codes in a model; reads no weights.

    Raises CompatibilityError unless bundle and model belong together, DataError if the model's
    configuration does not say how many tokens it scores.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> tokens = sidtool.model_tokens("base+sid", bundle)
        >>> len(tokens.levels), tokens.block_start == int(tokens.levels[0][0])
        (3, True)
    """
    folder = model_folder(model)
    contract, _, _ = check_model_folder(folder, bundle)
    tokens = contract.tokens
    levels = tuple(tokens.level_ids)
    begin_end = None
    if tokens.begin is not None and tokens.end is not None:
        begin_end = (tokens.begin, tokens.end)
    rows = _scored_tokens(folder)
    largest = max(int(ids.max()) for ids in levels)
    if largest >= rows:
        raise CompatibilityError(f"{folder} scores {rows} tokens, but has the SID token {largest}")
    return ModelTokens(levels, begin_end, rows)


def _scored_tokens(folder: Path) -> int:
    """The size of the vocabulary in a model's configuration."""
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(
            f"{folder} has no {CONFIG}: engines serve whole models, not adapters",
            hint=f"sidtool merge {folder} -o NEW",
        )
    settings: dict[str, Any] = read_object(path)
    nested = settings.get("text_config")
    for part in (settings, nested if isinstance(nested, dict) else {}):
        size = part.get("vocab_size")
        if type(size) is int and 0 < size <= MAX_TOKEN_ID:
            return size
    raise DataError(
        f"{path} does not say how many tokens the model has: no vocab_size up to {MAX_TOKEN_ID}"
    )
