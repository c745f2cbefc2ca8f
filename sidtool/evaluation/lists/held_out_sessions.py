"""Held-out sessions by the rows of a bundle, and what metrics know of its items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidtool.data.split.split import Example, FurtherTarget, UserSequence
from sidtool.evaluation.lists.list_metrics import UNKNOWN, ItemFacts, ListTruth, Rows, information
from sidtool.tokenizer.bundle.bundle import Bundle


@dataclass(frozen=True, eq=False)
class HeldOutSessions:
    """n examples, each with the items of its session as rows of a bundle."""

    bundle: Bundle
    examples: tuple[Example, ...]
    truths: tuple[ListTruth, ...]
    exclude_seen: bool

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        examples: Sequence[Example],
        *,
        exclude_seen: bool,
        order: str | None = None,
    ) -> "HeldOutSessions":
        """Look up the targets. An item that comes again in a session counts once; `order` is the
        feedback by whose values, the largest first, targets are ordered, in place of time."""
        truths = tuple(_truth(bundle, example, exclude_seen, order) for example in examples)
        return cls(bundle, tuple(examples), truths, exclude_seen)

    def rows(self, number: int, ids: Sequence[str]) -> Rows:
        """The rows of a list for an example; -1 for an item that is not active, and for
        one of the history where those are excluded."""
        rows = _recommendable(self.bundle, ids)
        if self.exclude_seen:
            seen = self.bundle.items.rows(list(self.examples[number].history))
            rows[np.isin(rows, seen)] = UNKNOWN
        return rows


def item_facts(bundle: Bundle, events: Sequence[UserSequence]) -> ItemFacts:
    """The vectors of a bundle's items and their self-information in training events."""
    items = bundle.items
    directions = None
    if bundle.codebook is not None:
        vectors = bundle.codebook.decode(items.codes)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        directions = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    ids = [item for sequence in events for item in sequence.items]
    rows = items.rows(ids)
    counts = np.bincount(rows[rows >= 0], minlength=len(items))
    counts[~bundle.is_active] = 0
    return ItemFacts(directions, information(counts))


def _truth(bundle: Bundle, example: Example, exclude_seen: bool, order: str | None) -> ListTruth:
    first_of: dict[str, FurtherTarget] = {}
    for target in example.targets:
        first_of.setdefault(target.item, target)
    rows = _recommendable(bundle, list(first_of))
    if exclude_seen:
        rows[np.isin(list(first_of), example.history)] = UNKNOWN
    places = np.arange(len(first_of), dtype=np.float64)
    if order is not None:
        values = [target.feedback[order] for target in first_of.values()]
        places = np.array([-v if isinstance(v, int | float) else np.nan for v in values])
    return ListTruth(rows, places)


def _recommendable(bundle: Bundle, ids: Sequence[str]) -> Rows:
    """The rows of items, -1 for those that are not active: absent, retired, or without tokens."""
    rows = np.array(bundle.items.rows(list(ids)), dtype=np.int64)
    rows[(rows >= 0) & ~bundle.is_active[rows]] = UNKNOWN
    return rows
