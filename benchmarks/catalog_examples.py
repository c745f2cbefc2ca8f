"""Users of a split as item numbers of a catalog, for baselines and for models with item ids.

The catalog is the bundle's active items, as in `sidtool evaluate`. Metrics are at item level over
the full catalog, by sidtool's own code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from popular_catalog import Catalog

from sidtool import Bundle
from sidtool.data.split.files import open_split
from sidtool.data.split.values import Example
from sidtool.evaluation.metrics import averages, find_targets, metric_names, metric_values
from sidtool.tokenizer.sid import PopularityRanks

KS = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class Part:
    """One part of a split, validation or test."""

    examples: tuple[Example, ...]
    histories: list[PopularityRanks]
    """Item numbers of each history."""
    targets: PopularityRanks
    """(n,) item numbers, -1 for an item that the catalog lacks."""

    @classmethod
    def of(cls, examples: tuple[Example, ...], catalog: Catalog) -> "Part":
        """The examples in item numbers of the catalog."""
        histories = [catalog.index_of(example.history) for example in examples]
        targets = catalog.targets([example.item for example in examples])
        return cls(examples, histories, targets)

    def score(self, ranked: PopularityRanks) -> dict[str, float]:
        """Mean metrics of (n, k) ranked item numbers."""
        return averages(*self._values(ranked))

    def columns(self, ranked: PopularityRanks, names: Sequence[str]) -> NDArray[np.float64]:
        """(n, names) metrics of each example."""
        computed, values = self._values(ranked)
        return values[:, [computed.index(name) for name in names]]

    def _values(self, ranked: PopularityRanks) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        ks = [k for k in KS if k <= ranked.shape[1]]
        return metric_names(ks), metric_values(find_targets(ranked, self.targets), ks)


@dataclass(frozen=True)
class CatalogExamples:
    """A catalog, with the training events of its users, and the two parts that are held out."""

    catalog: Catalog
    valid: Part
    test: Part


def read_catalog_examples(bundle: Path, split: Path) -> CatalogExamples:
    """A split folder (or a file of events) over the active items of a bundle."""
    items = Bundle.open(bundle).items
    parts = open_split(split)
    active = np.flatnonzero(~items.retired).tolist()
    catalog = Catalog.of([items.ids[row] for row in active], parts.train)
    valid = Part.of(tuple(parts.valid), catalog)
    test = Part.of(tuple(parts.test), catalog)
    return CatalogExamples(catalog, valid, test)
