"""New items in a measurement: a split whose training events lack them, and text-kNN, the baseline
that needs no events."""

import csv
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.output import new_dir
from sidtool.data.split.split import Split
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.quantize.mlp import unit

COLUMNS = ("user_id", "history_item_id", "item_id")
RECENCY = 0.5
"""Weight of a history's item in text-kNN, per later item."""

WindowRow = tuple[str, Sequence[str], str]
"""User, history, target."""


def refuse_windows(split: Split) -> None:
    """Raise ValueError for a split of windows, whose training events are not whole sequences."""
    if split.windows is not None:
        raise ValueError("items are added to whole sequences of events, not to windows")


def write_windows_without(split: Split, new_items: Collection[str], out: Path) -> Path:
    """Write train.csv, valid.csv and test.csv, windows for `sidtool split --protocol given`, to a
    new folder.

    Training events of new items are left out, one window has all others of a user. Validation and
    test are those of `split`: at serving, users meet new items before anything is trained again,
    so new items are targets and in histories.

    Raises ValueError for a split of windows, whose training events are not whole sequences."""
    refuse_windows(split)
    if out.exists():
        return out
    train: list[WindowRow] = []
    for sequence in split.train:
        old = [item for item in sequence.items if item not in new_items]
        if old:
            # another id: windows of one user are of one sequence, and histories have new items
            train.append((f"{sequence.user} (training)", old[:-1], old[-1]))
    with new_dir(out) as folder:
        _write(folder / "train.csv", train)
        for name, examples in (("valid.csv", split.valid), ("test.csv", split.test)):
            rows = ((example.user, example.history, example.item) for example in examples)
            _write(folder / name, rows)
    return out


def text_knn(
    vectors: Vectors,
    histories: Sequence[NDArray[np.int64]],
    k: int,
    *,
    exclude_seen: bool,
    only: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """(h, k) int64: the items whose vectors have the largest cosines to the items of each of h
    histories, best first.

    `vectors` are (n, dim), a history has rows of them, oldest first; -1, an item without a vector,
    is left out. The cosine to an item that g later ones follow counts RECENCY^g. `only` are the
    rows that may be recommended."""
    directions = unit(vectors)
    denied = np.zeros(len(vectors), dtype=np.bool_)
    if only is not None:
        denied = ~np.isin(np.arange(len(vectors)), only)
    ranked = np.empty((len(histories), k), dtype=np.int64)
    for row, row_ids in enumerate(histories):
        history = row_ids[row_ids >= 0]
        weights = RECENCY ** np.arange(len(history))[::-1]
        scores = directions @ (weights @ directions[history])  # (n,)
        scores[denied] = -np.inf
        if exclude_seen:
            scores[history] = -np.inf
        ranked[row] = np.argsort(-scores, kind="stable")[:k]
    return ranked


def _write(path: Path, rows: Iterable[WindowRow]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows((user, json.dumps(list(history)), item) for user, history, item in rows)
