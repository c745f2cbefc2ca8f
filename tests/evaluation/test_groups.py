"""Groups of examples: all, the macro mean over items, and slices by training frequency."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.data.split import Example, UserSequence
from sidtool.evaluation import SLICES, example_groups
from sidtool.evaluation.metrics import averages


def examples_of(targets: list[str]) -> list[Example]:
    return [Example(f"u{number}", ("x",), item, 1) for number, item in enumerate(targets)]


def events_of(counts: dict[str, int]) -> list[UserSequence]:
    items = tuple(item for item, count in counts.items() for _ in range(count))
    return [UserSequence("u", items, tuple(range(len(items))))]


@pytest.mark.parametrize(
    ("name", "counts"),
    [("cold", [0]), ("rare", [1, 5]), ("occasional", [6, 20]), ("frequent", [21, 99]),
     ("popular", [100, 500])],
)  # fmt: skip
def test_the_number_of_training_events_decides_the_slice(name: str, counts: list[int]) -> None:
    for count in counts:
        groups = example_groups(examples_of(["i"]), events_of({"i": count, "other": 1}))
        warm = {"warm"} if count else set()
        assert groups.keys() == {"all", "macro", name, *warm}


def test_without_training_events_there_are_no_slices() -> None:
    for events in (None, []):
        assert example_groups(examples_of(["i"]), events).keys() == {"all", "macro"}


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_the_groups_of_any_examples(targets: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = dict(zip("abcdefg", rng.integers(0, 130, 7).tolist(), strict=True))
    groups = example_groups(examples_of(targets), events_of({**counts, "x": 1}))
    slices = [groups[name] for name in SLICES if name in groups and name != "warm"]
    assert (np.sum(slices, axis=0) == 1).all()  # each example is in one slice
    values = rng.random((len(targets), 1))
    by_item = [
        np.mean([value for value, target in zip(values[:, 0], targets, strict=True) if target == i])
        for i in set(targets)
    ]
    macro = averages(["m"], values, groups["macro"])["m"]
    assert macro == pytest.approx(float(np.mean(by_item)))
