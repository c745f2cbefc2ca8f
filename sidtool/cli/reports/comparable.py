"""What is good about a codebook and what is not, by the figures of public catalogs.

The figures are those that `benchmarks/comparable.py` measured. They say what is usual, not what a
model needs: over published codebooks, balance barely predicts how well a model recommends."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from sidtool.base.documents import parse_json
from sidtool.base.records import JsonRecord
from sidtool.cli.reports.blocks import Table
from sidtool.tokenizer import BundleFigures


@dataclass(frozen=True)
class Comparable(JsonRecord):
    """The figures of one codebook."""

    catalog: str
    made_by: str
    items: int
    sizes: tuple[int, ...]
    sharing: float
    """Share of the items whose SID another item has."""
    used: tuple[float, ...]
    """Share of the codes of each level that occur."""
    even: tuple[float, ...]
    """Perplexity of each level over its number of codes, or of items if these are fewer."""

    @classmethod
    def of(cls, name: str, figures: BundleFigures) -> "Comparable":
        """The figures of a bundle."""
        uses = [level.use for level in figures.levels]
        return cls(
            name,
            figures.method or "imported",
            figures.items,
            figures.sizes,
            figures.after.items / max(1, figures.items),
            tuple(use.utilization for use in uses),
            tuple(use.perplexity / max(1, min(use.size, figures.items)) for use in uses),
        )


@cache
def public_codebooks() -> tuple[Comparable, ...]:
    """Those of public catalogs: the rows of benchmarks/results/comparable.json."""
    rows = parse_json(Path(__file__).with_name("comparable.json").read_bytes())
    return tuple(Comparable.from_json(row) for row in rows)


def answers(figures: BundleFigures) -> tuple[str, ...]:
    """What is good about a codebook and what is not, the worst first."""
    codebook = Comparable.of("", figures)
    bad: list[str] = []
    usual: list[str] = []
    good: list[str] = []
    if not codebook.sharing:
        good.append("Good: every item has a SID of its own.")
    else:
        highest = max(public.sharing for public in public_codebooks())
        text = (
            f"{codebook.sharing:.1%} of the items share their SID with another one, which the "
            f"model cannot tell from it; in public catalogs up to {highest:.1%} do."
        )
        (bad if codebook.sharing > highest else usual).append(text)
    # an appended level is no part of the codebook, and most items have its first code
    for number, level in enumerate(figures.levels[: -1 if figures.policy == "append" else None]):
        name = f"Level {number + 1}"
        share = codebook.even[number]
        text = f"{name} has a perplexity of {level.use.perplexity:.0f}, {share:.0%} of the possible"
        if level.use.is_collapsed(figures.items):
            bad.append(f"{text}: it is collapsed, a few codes have nearly all items.")
            continue
        others = [public.even[number] for public in public_codebooks() if len(public.even) > number]
        if not others:
            continue
        beside = f"public catalogs have {min(others):.0%} to {max(others):.0%}"
        if share < min(others):
            bad.append(f"{text}; {beside}.")
        elif share < median(others):
            usual.append(f"{text}; {beside}.")
        else:
            good.append(f"Good: {text[0].lower()}{text[1:]}; {beside}.")
    return (*(f"Look at it: {text}" for text in bad), *(f"Usual: {text}" for text in usual), *good)


def comparison(codebooks: Sequence[Comparable]) -> Table:
    """The figures of codebooks as a table."""
    rows = tuple(
        (
            *(entry.catalog, entry.made_by, f"{entry.items:,}", "x".join(map(str, entry.sizes))),
            *(f"{entry.sharing:.1%}", _shares(entry.used), _shares(entry.even)),
        )
        for entry in codebooks
    )
    columns = (
        *("catalog", "codebook", "items", "codes per level", "items sharing a SID"),
        *("codes used, by level", "perplexity of the possible, by level"),
    )
    return Table("Beside public catalogs", columns, rows)


def _shares(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0%}" for value in values)
