"""Which items people meet together: pairs counted in training events, and in nothing else.

Knows a split and a window; knows nothing of vectors or of what the counts are good for. Memory goes
with the pairs that occur, never with the square of the items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.splits import Split, scan
from sidtool.data.tables import digest_strings
from sidtool.errors import DataError, RefusedError

WINDOW = 50
"""Events of a user that lie further apart do not co-occur: the cost stays linear in the events."""


@dataclass(frozen=True)
class Together:
    """Co-occurrence of n items, numbered as a catalog lists them."""

    counts: Any
    """(n, n) scipy CSR float64, symmetric, diagonal empty: weights of the pairs."""
    events: NDArray[np.int64]
    """(n,): training events of each item."""
    facts: dict[str, Any]
    """What a recipe records, JSON-able: of the training part alone, so that nothing held out can
    change it."""


def met_together(split: Split, ids: Sequence[str], *, window: int, decay: float) -> Together:
    """Count the pairs of items `ids` within `window` training events of a user; see
    `co_occurrence`.

    Training events of other items are left out. Raises RefusedError if a held-out event stands
    among the training ones, DataError if no two of the items occur together."""
    users = [user.user for user in split.train for _ in user.items]
    items = [item for user in split.train for item in user.items]
    places = [place for user in split.train for place in user.positions]
    if held_out := scan(split, zip(users, items, places, strict=True)):
        raise RefusedError(f"{held_out} held-out events stand among the training events, 0 may")
    number = {item: at for at, item in enumerate(ids)}
    known = [
        np.array([number[i] for i in user.items if i in number], dtype=np.int64)
        for user in split.train
    ]
    counts = co_occurrence(known, len(ids), decay, window)
    if not counts.nnz:
        raise DataError(
            f"no two of the {len(ids)} items occur together in {len(items)} training events",
            hint="do the ids of --interactions name the catalog's items?",
        )
    facts = {
        "protocol": split.protocol,
        "train_events": len(items),
        "train_digest": digest_strings(users, items),
        "window": window,
        "decay": decay,
    }
    return Together(counts, np.bincount(np.concatenate(known), minlength=len(ids)), facts)


def co_occurrence(
    sequences: Sequence[NDArray[np.int64]], items: int, decay: float, window: int = WINDOW
) -> Any:
    """(items, items) CSR float64: weights of all pairs of different items in users' sequences, both
    ways round.

    Two events of a user that lie `gap` apart (1: next to each other, `window`: the most) weigh
    `decay ** (gap - 1)`."""
    from scipy import sparse

    events = np.concatenate([np.zeros(0, dtype=np.int64), *sequences])
    users = np.repeat(np.arange(len(sequences)), [len(items) for items in sequences])
    total = sparse.csr_matrix((items, items))
    for gap in range(1, min(window, max((len(items) for items in sequences), default=1)) + 1):
        earlier, later = events[:-gap], events[gap:]
        pairs = (users[:-gap] == users[gap:]) & (earlier != later)
        weights = np.full(int(pairs.sum()), decay ** (gap - 1))
        total = total + sparse.csr_matrix(
            (weights, (earlier[pairs], later[pairs])), shape=(items, items)
        )
    return (total + total.T).tocsr()
