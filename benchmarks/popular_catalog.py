"""Items by popularity, for benchmarks that have ids and no bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sidtool.data.split import Ragged
from sidtool.data.split.values import UserSequence
from sidtool.evaluation.baselines import by_popularity
from sidtool.tokenizer.sid import PopularityRanks


@dataclass(frozen=True, eq=False)
class Catalog:
    """The items that may be recommended, most popular first: by training events, ties by id."""

    ids: tuple[str, ...]
    index: Mapping[str, int]
    sequences: Ragged
    """The training events of each user by popularity rank, without other items."""

    @classmethod
    def of(cls, ids: Sequence[str], users: Sequence[UserSequence]) -> "Catalog":
        """The catalog of some ids, counted in the users' training events."""
        order, sequences = by_popularity(ids, users)
        ranked = tuple(ids[place] for place in order.tolist())
        return cls(ranked, {item: rank for rank, item in enumerate(ranked)}, sequences)

    def __len__(self) -> int:
        return len(self.ids)

    def index_of(self, items: Sequence[str]) -> PopularityRanks:
        """The items that the catalog has, in the order given."""
        ranks = self.targets(items)
        return PopularityRanks(ranks[ranks >= 0])

    def targets(self, items: Sequence[str]) -> PopularityRanks:
        """Every item, -1 where the catalog lacks it."""
        ranks = [self.index.get(item, -1) for item in items]
        return PopularityRanks(np.array(ranks, dtype=np.int64))
