"""What the systems of an evaluation recommend for a few examples, for people to read."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sidtool.base.records import JsonRecord
from sidtool.data.split.split import evenly_spaced
from sidtool.evaluation.ranking import IndexedExamples
from sidtool.model.contract.compat import matching_rows
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.index_spaces import ItemRows, SidPositions

HISTORY = 20
"""Items of a history that are stored, the last ones."""


@dataclass(frozen=True)
class Sample(JsonRecord):
    """An example and the first recommendations of each system for it."""

    user: str
    earlier: int
    """Items of the history before those of `history`."""
    history: tuple[str, ...]
    """The last items of the history, oldest first."""
    target: str
    recommended: dict[str, tuple[str, ...]]
    """By system: the first items, best first."""


def sample_examples(
    examples: IndexedExamples, first_items: Mapping[str, SidPositions], count: int
) -> tuple[Sample, ...]:
    """`count` examples, evenly spread over all.

    `first_items` has (n, items) per system: the first recommendations for each of the n examples,
    by position in SID order; -1 where there are no more."""
    return tuple(
        _sample(examples, first_items, row)
        for row in evenly_spaced(range(len(examples.examples)), count)
    )


def _sample(examples: IndexedExamples, first_items: Mapping[str, SidPositions], row: int) -> Sample:
    example = examples.examples[row]
    earlier = max(0, len(example.history) - HISTORY)
    ids = examples.bundle.items.ids
    recommended = {}
    for system, items in first_items.items():
        positions = items[row][items[row] >= 0]
        recommended[system] = tuple(ids[at] for at in examples.bundle.active[positions].tolist())
    return Sample(example.user, earlier, example.history[earlier:], example.item, recommended)


def titles_of(samples: tuple[Sample, ...], bundle: Bundle) -> dict[str, str]:
    """The title of each item of the samples by its id; those without one are left out."""
    ids: set[str] = set()
    for sample in samples:
        ids.update(sample.history, [sample.target], *sample.recommended.values())
    ordered = sorted(ids)
    rows = bundle.items.rows(ordered).tolist()
    titles = {
        item: bundle.items.title(row) for item, row in zip(ordered, rows, strict=True) if row >= 0
    }
    return {item: title for item, title in titles.items() if title}


def positions_in(bundle: Bundle, other: Bundle, positions: SidPositions) -> SidPositions:
    """The positions in SID order of a bundle's items in another bundle of the same items, in the
    shape given; -1 stays."""
    rows = ItemRows(matching_rows(bundle.items, other.items)[bundle.active])  # (active,)
    in_other = other.trie().positions_of(rows)
    return SidPositions(np.where(positions < 0, -1, in_other[positions]))
