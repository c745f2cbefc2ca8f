"""What an export is written with, and what it wrote; the token ids of a bundle's codes in a model,
for engines that know tokens and not codes."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.checkpoint import CONFIG, MAX_TOKEN_ID, read_object
from sidtool.base.errors import CompatibilityError, DataError, SidtoolWarning
from sidtool.data import Items
from sidtool.model import check_model_folder
from sidtool.model.contract import model_folder
from sidtool.tokenizer.bundle import Bundle

Keys = Literal["id", "line"]


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

    def ids(self, bundle: Bundle, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The token ids (n, levels) of items, given by their rows (n,)."""
        codes = bundle.items.codes[rows]
        columns = [ids[codes[:, level]] for level, ids in enumerate(self.levels)]
        return np.stack(columns, axis=1)

    def rows_with_tokens(self, bundle: Bundle) -> NDArray[np.int64]:
        """The rows (n,) of the active items of which every code has a token; a SidtoolWarning
        counts the others. Raises DataError if no row is left."""
        rows = bundle.active
        has_tokens = np.ones(len(rows), dtype=np.bool_)
        for level, ids in enumerate(self.levels):
            has_tokens &= ids[bundle.items.codes[rows, level]] >= 0
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


@dataclass(frozen=True)
class Export:
    """What an export is written with."""

    items: Items | None = None
    keys: Keys = "id"
    tokens: ModelTokens | None = None
    force: bool = False


@dataclass(frozen=True)
class Exported:
    """The files of an export."""

    files: tuple[Path, ...]
    engine_options: str = ""
    """the options with which an inference engine reads them, if it has others than a path"""
    lacks: str = ""
    """what the files lack, and which option adds it"""


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
    config = folder / CONFIG
    if not config.is_file():
        raise DataError(
            f"{folder} has no {CONFIG}: engines serve whole models, not adapters",
            hint=f"sidtool merge {folder} -o NEW",
        )
    settings: dict[str, Any] = read_object(config)
    nested = settings.get("text_config")
    sizes = [part.get("vocab_size") for part in (settings, nested) if isinstance(part, dict)]
    usable = [size for size in sizes if type(size) is int and 0 < size <= MAX_TOKEN_ID]
    if not usable:
        raise DataError(
            f"{config} does not say how many tokens the model has: no vocab_size up to "
            f"{MAX_TOKEN_ID}"
        )
    levels = tuple(tokens.level_ids)
    largest = max(int(ids.max()) for ids in levels)
    if largest >= usable[0]:
        raise CompatibilityError(
            f"{folder} scores {usable[0]} tokens, but has the SID token {largest}"
        )
    begin_end = None
    if tokens.begin is not None and tokens.end is not None:
        begin_end = (tokens.begin, tokens.end)
    return ModelTokens(levels, begin_end, usable[0])
