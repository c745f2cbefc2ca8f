"""What the rivals in `benchmarks/` are trained and asked: make-sft's files as item numbers, and one
way to score them.

The catalog is the bundle's active items, as in `sidtool evaluate`; scores are item-level over the
full catalog, from sidtool's own metric code."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool import Bundle
from sidtool.data.examples import read_events, read_examples
from sidtool.data.splits import Example, UserSequence
from sidtool.evaluate.baselines import Catalog
from sidtool.evaluate.metrics import averages, find_targets, metric_names, metric_values
from sidtool.sft.make_sft import side_files

KS = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class Asked:
    """Examples as item numbers: n histories and (n,) int64 targets, -1 where the catalog lacks one."""

    examples: tuple[Example, ...]
    histories: list[NDArray[np.int64]]
    targets: NDArray[np.int64]

    def score(self, ranked: NDArray[np.int64]) -> dict[str, float]:
        """Mean metrics of (n, k) ranked item numbers."""
        ks = [k for k in KS if k <= ranked.shape[1]]
        return averages(metric_names(ks), metric_values(find_targets(ranked, self.targets), ks))


@dataclass(frozen=True)
class Questions:
    """A catalog, its users' training events, and what valid and test ask."""

    catalog: Catalog
    events: tuple[UserSequence, ...]
    train: list[NDArray[np.int64]]
    valid: Asked
    test: Asked


def read_questions(bundle: Path, rows: Path) -> Questions:
    """The questions that lie beside the training rows `rows`, over the active items of a bundle."""
    items, files = Bundle.open(bundle).items, side_files(rows)
    events = tuple(read_events(files["events"]))
    active = np.flatnonzero(~items.retired).tolist()
    catalog = Catalog.of([items.ids[row] for row in active], [user.items for user in events])

    def asked(path: Path) -> Asked:
        examples = tuple(read_examples(path))
        histories = [catalog.numbers(example.history) for example in examples]
        return Asked(examples, histories, catalog.targets([example.item for example in examples]))

    train = [catalog.numbers(user.items) for user in events]
    return Questions(catalog, events, train, asked(files["valid"]), asked(files["test"]))
