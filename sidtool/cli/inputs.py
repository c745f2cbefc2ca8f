"""Files that several commands read: lists of item ids, and vectors, one source or several, with a
weight each where a bundle is built."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidtool.errors import DataError, UsageError

if TYPE_CHECKING:
    from sidtool.bundle.bundle import Bundle
    from sidtool.data.vectors import VectorSource
    from sidtool.sid import Vectors


def read_ids(path: Path) -> list[str]:
    """Item ids, a line each. Raises DataError if the file cannot be read."""
    try:
        return list(filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def open_weighted(
    embeddings: Sequence[str], ids: Sequence[str], memory: int | None
) -> tuple[list["VectorSource"], tuple[float, ...]]:
    """`FILE` or `FILE=WEIGHT` each -> (n, dim_i) vectors of the items, and the weights (1 where
    none is given)."""
    from sidtool.data.vector_files import open_vectors

    pairs = [_weighted(each) for each in embeddings]
    return [open_vectors(path, ids, memory=memory) for path, _ in pairs], tuple(
        weight for _, weight in pairs
    )


def read_side_by_side(
    embeddings: Sequence[Path], ids: Sequence[str] | None, bundle: "Bundle"
) -> "Vectors":
    """The sources that a bundle was built from -> (n, sum of dims), as it encodes them.

    Raises UsageError if they are not as many as the bundle fused, or one has another width.
    """
    import numpy as np

    from sidtool.data.vector_files import read_vectors

    found = [read_vectors(path, ids) for path in embeddings]
    if bundle.codebook is None:
        return found[0]  # refused where it is used
    given, wanted = tuple(vectors.shape[1] for vectors in found), bundle.codebook.dims
    if given != wanted:
        raise UsageError(
            f"the vectors given have {_spell(given)} dimensions, bundle "
            f"{bundle.manifest.name!r} was built from "
            f"{_spell(wanted)}",
            hint="give --embeddings once for each source, in the order of build-codebook",
        )
    if len({len(vectors) for vectors in found}) > 1:
        raise UsageError(
            f"the files of vectors have {_spell([len(vectors) for vectors in found])} rows"
        )
    return np.concatenate(found, axis=1)


def _weighted(spelled: str) -> tuple[Path, float]:
    """A path and its weight; a path may hold "=" itself, if what follows is no number."""
    path, equals, weight = spelled.rpartition("=")
    try:
        return (Path(path), float(weight)) if equals else (Path(spelled), 1.0)
    except ValueError:
        return Path(spelled), 1.0


def _spell(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))
