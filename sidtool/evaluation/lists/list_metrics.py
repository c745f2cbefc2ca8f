"""Metrics of single lists against the session that was held out. docs/metrics.md defines each.

A list and a session are arrays of rows of a bundle. A negative row is an item that cannot be
recommended: such a target is never found, and such an entry of a list is illegal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import Example, UserSequence
from sidtool.data.split.pairs import numbered_sequences
from sidtool.memory import count_events
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.quantize import unit
from sidtool.tokenizer.sid import ItemRows


@dataclass(frozen=True, eq=False)
class ListTruth:
    """What a list for one example is measured against."""

    targets: ItemRows
    """(t,): the distinct items of the held-out session"""
    order: NDArray[np.float64]
    """(t,): the place of each target; equal places are in no order, and NaN has none"""


@dataclass(frozen=True, eq=False)
class ItemFacts:
    """What metrics know of the items of a bundle, by row."""

    directions: NDArray[np.float32] | None
    """(items, width) the item's codebook vectors, added up and of length 1; None without a
    codebook"""
    information: NDArray[np.float64]
    """(items,): bits that a random training event being of this item carries"""


def list_metric_names(length: int) -> tuple[str, ...]:
    """The metrics of a list of at most `length` items, in the order of `list_values`."""
    ranked = (f"recall@{length}", f"ndcg@{length}")
    return (*ranked, "kendall_tau", "diversity", "novelty", "repeats", "legal", "length")


def list_values(
    items: ItemRows, truth: ListTruth, facts: ItemFacts, length: int
) -> NDArray[np.float64]:
    """(metrics,) of one list, whose entries behind `length` do not count; NaN where a metric is not
    defined: the order of fewer than two targets, the diversity of fewer than two items, novelty,
    repeats and legality of none."""
    items = ItemRows(items[:length])
    # a repeated item is found once
    distinct = ItemRows(np.array(list(dict.fromkeys(items.tolist())), dtype=np.int64))
    legal = ItemRows(distinct[distinct >= 0])  # the entries that are items
    return np.array(
        [
            recall(items, truth.targets, length),
            ndcg(items, truth.targets, length),
            kendall_tau(distinct, truth),
            diversity(legal, facts.directions),
            float(facts.information[legal].mean()) if len(legal) else np.nan,
            1 - len(distinct) / len(items) if len(items) else np.nan,
            float((items >= 0).mean()) if len(items) else np.nan,
            float(len(items)),
        ]
    )


def recall(items: ItemRows, targets: ItemRows, length: int) -> float:
    """Share of the session's items in the list, of as many as the list could have (as in D. Liang
    et al., WWW 2018): a list of 10 that has 10 of 30 targets has found all it could."""
    is_hit = np.isin(targets, items) & (targets >= 0)
    return float(is_hit.sum()) / min(length, len(targets))


def ndcg(items: ItemRows, targets: ItemRows, length: int) -> float:
    """Discounted gain of the targets in the list, each counted where it comes first, by that of a
    list that begins with targets alone."""
    distinct, first_places = np.unique(items, return_index=True)
    hits = first_places[np.isin(distinct, targets) & (distinct >= 0)]
    discounts = 1 / np.log2(np.arange(length) + 2)
    best = discounts[: len(targets)].sum()
    return float(discounts[np.sort(hits)].sum() / best)


def kendall_tau(distinct: ItemRows, truth: ListTruth) -> float:
    """Kendall's tau between the list and the session over the targets that the list has: pairs in
    the same order less pairs in the opposite one, by all pairs that have an order; NaN without
    such a pair (the gamma of Goodman and Kruskal, 1954, where places tie)."""
    orders = dict(zip(truth.targets.tolist(), truth.order.tolist(), strict=True))
    places = np.array([orders[row] for row in distinct.tolist() if row >= 0 and row in orders])
    if len(places) < 2:
        return np.nan
    # +1 where the list has a pair in the session's order, -1 where it has the opposite one
    earlier, later = np.triu_indices(len(places), 1)
    signs = np.sign(places[later] - places[earlier])
    ordered = signs[np.isfinite(signs) & (signs != 0)]
    return float(ordered.mean()) if len(ordered) else np.nan


def diversity(items: ItemRows, directions: NDArray[np.float32] | None) -> float:
    """One less the mean cosine of the vectors of two different items of the list (intra-list
    diversity: C.-N. Ziegler et al., WWW 2005)."""
    if directions is None or len(items) < 2:
        return np.nan
    vectors = directions[items].astype(np.float64)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(items), 1)]
    return float(1 - cosines.mean())


def list_truth(
    bundle: Bundle, example: Example, *, exclude_seen: bool, order: str | None
) -> ListTruth:
    """The targets of an example. An item that comes again in a session counts once; `order` is the
    feedback by whose values, the largest first, targets are ordered, in place of time."""
    ids = list(dict.fromkeys(example.items))
    places = np.arange(len(ids), dtype=np.float64)
    if order is not None:
        first_targets = {target.item: target for target in reversed(example.targets)}
        values = [first_targets[item].feedback[order] for item in ids]
        places = np.array(
            [-value if isinstance(value, int | float) else np.nan for value in values]
        )
    return ListTruth(recommendable_rows(bundle, ids, example, exclude_seen=exclude_seen), places)


def recommendable_rows(
    bundle: Bundle, ids: Sequence[str], example: Example, *, exclude_seen: bool
) -> ItemRows:
    """The rows of items; a negative number of its own for one that is not active (absent, retired,
    or without tokens), and for one of the example's history where those are excluded."""
    rows = bundle.items.rows(ids)
    seen = bundle.items.rows(example.history if exclude_seen else ())
    is_illegal = (rows < 0) | ~bundle.is_active[rows] | np.isin(rows, seen)
    for place in np.flatnonzero(is_illegal).tolist():
        rows[place] = -1 - ids.index(ids[place])  # the same where an id comes again
    return rows


def item_facts(bundle: Bundle, events: Sequence[UserSequence]) -> ItemFacts:
    """The vectors of a bundle's items and their self-information in training events."""
    items = bundle.items
    directions = None
    if bundle.codebook is not None:
        directions = unit(bundle.codebook.latent_vectors(items.codes))
    counts = count_events(numbered_sequences(events, list(items.ids)), len(items))
    counts[~bundle.is_active] = 0
    # each item counts once more, so that new ones have a share (novelty: T. Zhou et al., PNAS 2010)
    shares = (counts + 1) / (counts.sum() + len(counts))
    return ItemFacts(directions, -np.log2(shares))
