"""Item-item similarity of training events, and the score of items for a history.

Item-kNN (B. Sarwar et al., WWW 2001) with recency weights as in session-based kNN. The baseline of
an evaluation and the memory of a model are both computed here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.options import check_options, option
from sidtool.base.records import JsonRecord
from sidtool.data.split import ItemSequences, count_pairs, pair_weights


@dataclass(frozen=True)
class KnnSettings(JsonRecord):
    """How item-kNN weights events. With `distance` 1, `recency` 1 and no shrinkage, similarity is
    the cosine of the item columns.

    Raises UsageError for a number out of range."""

    distance: float = option(0.85, above=0, maximum=1)
    """Weight of a pair per position between its events: of `gap` positions, `distance ** (gap -
    1)`."""
    reverse: float = option(1.0, minimum=0, maximum=1)
    """Weight of a pair against its order; 1: symmetric."""
    normalization: float = option(0.5, minimum=0, maximum=1)
    """Exponent of the items' numbers of events that divide a similarity; 0.5: cosine. Lower favors
    items with many events."""
    shrinkage: float = option(0.0, minimum=0)
    """Lowers the similarity of rare items, as a summand of the denominator."""
    neighbors: int | None = option(None, minimum=1)
    """Most similar items kept per item."""
    recency: float = option(0.75, above=0, maximum=1)
    """Weight of a history's item per later item."""

    def __post_init__(self) -> None:
        check_options(self)


def item_similarity(
    sequences: Sequence[NDArray[np.int64]], items: int, settings: KnnSettings
) -> Any:
    """(items, items) scipy CSR float64: similarity of each item, the row, to those that users'
    training sequences have with it, with an empty diagonal."""
    return similarity_of(
        count_pairs(sequences, items, settings.distance), count_events(sequences, items), settings
    )


def count_events(sequences: Sequence[NDArray[np.int64]], items: int) -> NDArray[np.int64]:
    """(items,) int64: the number of events of each item."""
    return np.bincount(ItemSequences.of(sequences).items, minlength=items)


def similarity_of(
    pairs: Any, events: NDArray[np.int64], settings: KnnSettings, content: Any = None
) -> Any:
    """(items, items) scipy CSR float64: similarity by counted pairs (as `count_pairs`) and the
    events of each item.

    The similarity of item i to item j is the weight of j after i, plus `reverse` times that of j
    before i, over the shrinkage plus a power of the product of their numbers of events. `content`,
    an (n, n) CSR matrix above the diagonal, is added."""
    counts = pair_weights(pairs, settings.reverse)
    if content is not None:
        content = content + content.T
    return similarity_rows(counts, events, events[counts.indices], settings, content)


def similarity_rows(
    counts: Any,
    row_events: NDArray[np.int64],
    column_events: NDArray[np.int64],
    settings: KnnSettings,
    content: Any = None,
) -> Any:
    """(m, items) scipy CSR float64: similarity of m items to all by the weights (m, items) CSR of
    their pairs, the (m,) events of the rows and the (entries,) events of each entry's column, plus
    (m, items) `content`; the `neighbors` largest of each row."""
    from scipy import sparse

    products = np.repeat(row_events, np.diff(counts.indptr)) * column_events.astype(np.float64)
    values = counts.data / (products**settings.normalization + settings.shrinkage)
    # similarities exist only where items co-occur: the matrix is as sparse as the counts
    similarity = sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
    if content is not None:
        similarity = (similarity + content).tocsr()
    if settings.neighbors is None:
        return similarity
    return _nearest(similarity, settings.neighbors)


def history_scores(similarity: Any, histories: Sequence[NDArray[np.int64]], recency: float) -> Any:
    """(n, items) CSR float64: the score of every item for n histories, the sum of its similarities
    to the items of the history, each weighted by its age."""
    return _history_weights(histories, similarity.shape[0], recency) @ similarity


def age_weights(lengths: Sequence[int], recency: float) -> NDArray[np.float64]:
    """(events,) float64: the weight of each event of histories of these lengths, oldest first."""
    # the last item of a history has age 0
    ages = np.concatenate([np.zeros(0), *(np.arange(length)[::-1] for length in lengths)])
    return recency**ages


def largest(values: NDArray[np.float64], count: int) -> slice | NDArray[np.int64]:
    """The indexes of the largest values, ascending; of equal ones the first."""
    if len(values) <= count:
        return slice(None)
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    indexes = np.flatnonzero(values >= threshold)
    if len(indexes) == count:
        return indexes
    ties = np.flatnonzero(values[indexes] == threshold)
    return np.delete(indexes, ties[len(ties) - (len(indexes) - count) :])


def _nearest(similarity: Any, neighbors: int) -> Any:
    """The largest entries of each row; equal ones in the order of the items."""
    from scipy import sparse

    similarity.sort_indices()
    starts = similarity.indptr
    is_near = np.ones(len(similarity.data), dtype=np.bool_)
    for row in np.flatnonzero(np.diff(starts) > neighbors).tolist():
        entries = slice(starts[row], starts[row + 1])
        is_near[entries] = False
        is_near[entries][largest(similarity.data[entries], neighbors)] = True
    ends = np.concatenate([[0], np.cumsum(is_near)])[starts]
    nearest = (similarity.data[is_near], similarity.indices[is_near], ends)
    return sparse.csr_matrix(nearest, shape=similarity.shape)


def _history_weights(histories: Sequence[NDArray[np.int64]], items: int, recency: float) -> Any:
    """(n, items) CSR: the weight of each item of each history; repeated items add up."""
    from scipy import sparse

    lengths = [len(history) for history in histories]
    rows = np.repeat(np.arange(len(histories)), lengths)
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
    entries = (age_weights(lengths, recency), (rows, columns))
    return sparse.csr_matrix(entries, shape=(len(histories), items))
