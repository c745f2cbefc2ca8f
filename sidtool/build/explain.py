"""What the items under a code have in common: examples, and the words that set their titles apart.

Knows a bundle; knows nothing of how it was built.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sidtool.bundle.bundle import Bundle

_WORD = re.compile(r"[^\W_]{3,}")


@dataclass(frozen=True)
class Term:
    """A word, the share of titles under the prefix that hold it, and the share of all titles that
    do."""

    word: str
    share: float
    overall: float


@dataclass(frozen=True)
class Group:
    """The active items whose SID starts with a prefix."""

    prefix: str
    size: int
    examples: tuple[tuple[str, str, str], ...]
    """(id, SID, title)"""
    terms: tuple[Term, ...]


def explain(bundle: Bundle, prefix: Sequence[int], *, examples: int = 5, terms: int = 8) -> Group:
    """The group under a prefix of codes, with the words whose log-likelihood ratio against the
    catalog is largest.

    Ratio: Dunning, "Accurate methods for the statistics of surprise and coincidence" (1993), on
    title counts."""
    items = bundle.items
    first, stop = items.rows_under(prefix)
    rows = [row for row in range(first, stop) if not items.retired[row]]
    spread = rows[:: max(1, len(rows) // examples)][:examples] if examples else []
    shown = tuple(
        (items.ids[row], bundle.space.spell(items.codes[row]), items.title(row)) for row in spread
    )
    return Group(bundle.space.spell(prefix), len(rows), shown, _terms(bundle, rows, terms))


def _terms(bundle: Bundle, rows: Sequence[int], count: int) -> tuple[Term, ...]:
    titles = bundle.items.titles
    if titles is None or not rows:
        return ()
    inside, overall, n = _count(titles[row] for row in rows), _count(titles), len(titles)
    common = [
        word
        for word, times in inside.items()
        if times > 1 and times / len(rows) > overall[word] / n
    ]
    common.sort(key=lambda word: (-_ratio(inside[word], len(rows), overall[word], n), word))
    return tuple(Term(word, inside[word] / len(rows), overall[word] / n) for word in common[:count])


def _count(titles: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for title in titles:
        counts.update(set(_WORD.findall(title.lower())))
    return counts


def _ratio(inside: int, rows: int, overall: int, n: int) -> float:
    """G2 of the 2 x 2 table (word or not, under the prefix or not)."""
    table = [inside, rows - inside, overall - inside, n - rows - overall + inside]
    expected = [
        rows * overall / n,
        rows * (n - overall) / n,
        (n - rows) * overall / n,
        (n - rows) * (n - overall) / n,
    ]
    return 2 * sum(
        seen * math.log(seen / due)
        for seen, due in zip(table, expected, strict=True)
        if seen and due
    )
