"""What the items under a SID prefix have in common: examples, and distinctive words of their
titles."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sidtool.bundle.bundle import Bundle

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
    bundle: Bundle, prefix: str | Sequence[int], *, examples: int = 5, terms: int = 8
) -> PrefixGroup:
    """The group under a prefix (text or codes), with the words of largest log-likelihood ratio.

    Ratio: Dunning, "Accurate methods for the statistics of surprise and coincidence" (1993), on
    title counts, under the prefix against the whole catalog. Raises UsageError if the text is not
    the start of a SID.
    """
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
    return PrefixGroup(bundle.space.spell(prefix), len(rows), spread, _terms(bundle, rows, terms))


def _terms(bundle: Bundle, rows: Sequence[int], count: int) -> tuple[Term, ...]:
    titles = bundle.items.titles
    if titles is None or not rows:
        return ()
    n = len(titles)
    inside = _titles_with(titles[row] for row in rows)
    overall = _titles_with(titles)
    terms = [
        (_log_likelihood_ratio(times, len(rows), overall[word], n), word)
        for word, times in inside.items()
        if times > 1 and times / len(rows) > overall[word] / n
    ]
    terms.sort(key=lambda term: (-term[0], term[1]))
    return tuple(
        Term(word, inside[word] / len(rows), overall[word] / n) for _, word in terms[:count]
    )


def _titles_with(titles: Iterable[str]) -> Counter[str]:
    """In how many titles each word occurs."""
    counts: Counter[str] = Counter()
    for title in titles:
        counts.update(set(_WORD.findall(title.lower())))
    return counts


def _log_likelihood_ratio(inside: int, rows: int, overall: int, n: int) -> float:
    """G2 of the 2 x 2 table (with the word or not, under the prefix or not)."""
    observed = [inside, rows - inside, overall - inside, n - rows - overall + inside]
    expected = [
        rows * overall / n,
        rows * (n - overall) / n,
        (n - rows) * overall / n,
        (n - rows) * (n - overall) / n,
    ]
    return 2 * sum(
        seen * math.log(seen / due)
        for seen, due in zip(observed, expected, strict=True)
        if seen and due
    )
