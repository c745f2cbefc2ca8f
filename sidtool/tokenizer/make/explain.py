"""What the items under a SID prefix have in common: examples, and distinctive words of their
titles."""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.locations import opened
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap

_WORD = re.compile(r"[^\W_]{3,}")


@dataclass(frozen=True)
class Example:
    """An item under the prefix."""

    item_id: str
    sid: str
    title: str


@dataclass(frozen=True)
class Term:
    """A word, and the shares of titles with it under the prefix and in the whole catalog."""

    word: str
    share: float
    overall: float


@dataclass(frozen=True)
class PrefixGroup:
    """The active items whose SID starts with a prefix."""

    prefix: str
    items: int
    examples: tuple[Example, ...]
    terms: tuple[Term, ...]


def explain(
    bundle: Bundle | str | Path, prefix: str | Sequence[int], *, examples: int = 5, terms: int = 8
) -> PrefixGroup:
    """The group under a prefix (text or codes), with the words of largest log-likelihood ratio.

    Ratio: Dunning, "Accurate methods for the statistics of surprise and coincidence" (1993), on
    title counts, under the prefix against the whole catalog. Raises UsageError if it is not the
    start of a SID, and for a number below 0.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> group = sidtool.explain(bundle, bundle.sid("b007"), examples=1)
        >>> group.items, group.examples[0].title
        (1, 'blue kettle 7')
    """
    for name, number in (("examples", examples), ("terms", terms)):
        if number < 0:
            raise UsageError(f"{name} must be at least 0, not {number}")
    bundle = opened(bundle, "open_bundle")
    if isinstance(prefix, str):
        prefix = bundle.space.parse_prefix(prefix)
    items = bundle.items
    rows = [row for row in range(*items.rows_under(prefix)) if not items.retired[row]]
    # examples are spread over the group, not the first ones
    step = max(1, len(rows) // examples) if examples else 1
    spread = tuple(
        Example(items.ids[row], bundle.space.spell(items.codes[row]), items.title(row))
        for row in rows[::step][:examples]
    )
    words = TitleWords.of(items)
    common = words.terms(rows[0], rows[-1] + 1, terms) if rows else ()
    return PrefixGroup(bundle.space.spell(prefix), len(rows), spread, common)


@dataclass(frozen=True, eq=False)
class TitleWords:
    """The words of all titles of an item map, each once per title."""

    words: tuple[str, ...]
    numbers: NDArray[np.int32]
    """(pairs,): the words of one title after the other, as positions in `words`."""
    offsets: NDArray[np.int64]
    """(n + 1,): where the words of each title start."""
    active: NDArray[np.bool_]
    """(pairs,): the item is not retired."""
    n_active: NDArray[np.int64]
    """(n + 1,): active items before each row."""
    totals: NDArray[np.int64]
    """(words,): titles with the word, those of retired items included."""

    @classmethod
    def of(cls, items: ItemMap) -> "TitleWords":
        """Split the titles of an item map; without titles there are no words."""
        number_by_word: dict[str, int] = {}
        numbers = array("i")
        lengths = []
        for title in items.titles if items.titles is not None else [""] * len(items):
            distinct = set(_WORD.findall(title.lower()))
            numbers.extend(
                [number_by_word.setdefault(word, len(number_by_word)) for word in distinct]
            )
            lengths.append(len(distinct))
        pairs = np.frombuffer(numbers, dtype=np.int32) if numbers else np.zeros(0, dtype=np.int32)
        return cls(
            words=tuple(number_by_word),
            numbers=pairs,
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            active=np.repeat(~items.retired, lengths),
            n_active=np.concatenate([[0], np.cumsum(~items.retired, dtype=np.int64)]),
            totals=np.bincount(pairs, minlength=len(number_by_word)),
        )

    def terms(self, first: int, stop: int, count: int) -> tuple[Term, ...]:
        """The most distinctive words of the active items in these rows, at most `count`: in two or
        more of their titles, and more frequent than in the whole catalog."""
        n = len(self.offsets) - 1
        n_rows = int(self.n_active[stop] - self.n_active[first])
        pairs = slice(self.offsets[first], self.offsets[stop])
        inside = self.numbers[pairs][self.active[pairs]]
        present, times = np.unique(inside, return_counts=True)
        overall = self.totals[present]
        # the same numbers as the shares that are compared, in whole numbers
        frequent = np.flatnonzero((times > 1) & (times * n > overall * n_rows))
        times, overall = times[frequent], overall[frequent]
        ratios = _log_likelihood_ratios(times, n_rows, overall, n).tolist()
        words = [self.words[number] for number in present[frequent].tolist()]
        shares = (times / n_rows).tolist(), (overall / n).tolist()
        ranked = sorted(zip((-ratio for ratio in ratios), words, *shares, strict=True))
        return tuple(Term(*term) for _, *term in ranked[:count])


def _log_likelihood_ratios(
    inside: NDArray[np.int64], rows: int, overall: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """(words,): G2 of the 2 x 2 table (with the word or not, under the prefix or not)."""
    observed = np.array([inside, rows - inside, overall - inside, n - rows - overall + inside])
    totals = overall, n - overall
    expected = [part * total / n for part in (rows, n - rows) for total in totals]
    # a count of 0 adds 0
    terms = observed * np.log(np.maximum(observed, 1) / expected)
    return np.asarray(2 * terms.sum(axis=0))
