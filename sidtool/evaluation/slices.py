"""Groups of examples whose means are reported: all, the macro mean over items, and slices by how
often the target occurs in training."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split.split import Example, UserSequence
from sidtool.evaluation.bootstrap import everyone

SLICES: Mapping[str, tuple[int, int | None]] = {
    "cold": (0, 0),
    "rare": (1, 5),
    "occasional": (6, 20),
    "frequent": (21, 99),
    "popular": (100, None),
    "warm": (1, None),
}
"""First and last number of training events of the target. Warm items are all that are not cold."""


def example_groups(
    examples: Sequence[Example], events: Sequence[UserSequence] | None
) -> dict[str, NDArray[np.float64]]:
    """Name -> (n,) float64 weights of n examples: "all", "macro", and with training events the
    slices that have an example.

    The weights of "macro" are one over the number of examples with the same target, so that its
    mean is the mean over target items of the mean over the item's examples."""
    targets = [example.item for example in examples]
    n_examples = Counter(targets)
    groups = everyone(len(targets))
    groups["macro"] = np.array([1 / n_examples[target] for target in targets])
    if not events:
        return groups
    n_events = Counter(item for user in events for item in user.items)
    target_events = np.array([n_events[target] for target in targets])
    for name, (first, last) in SLICES.items():
        inside = target_events >= first
        if last is not None:
            inside &= target_events <= last
        if inside.any():
            groups[name] = inside.astype(np.float64)
    return groups
