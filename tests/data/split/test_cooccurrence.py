import dataclasses
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, RefusedError
from sidtool.data.split.pairs import cooccurrence
from sidtool.data.split.pairs.cooccurrence import (
    count_blocks,
    count_cooccurrence,
    count_pairs,
    item_sequences,
    pair_weights,
    sum_pairs,
)
from sidtool.data.split.split import SplitOrigin
from sidtool.data.split.values import Example
from tests.data.split.cases import split_of, trained


def test_counts_decay_with_distance_and_end_at_the_window() -> None:
    split = split_of(["abcd", "ba", "aa"])
    result = count_cooccurrence(split, "abcd", window=2, decay=0.5).counts.toarray()
    expected = np.zeros((4, 4))
    weights = {(0, 1): 2.0, (1, 2): 1.0, (2, 3): 1.0, (0, 2): 0.5, (1, 3): 0.5}
    for (left, right), weight in weights.items():  # a-d is 3 apart
        expected[left, right] = expected[right, left] = weight
    assert result.tolist() == expected.tolist()


def test_counting_agrees_with_loops() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(9, size=rng.integers(1, 12)) for _ in range(30)]
    expected = np.zeros((9, 9))
    for items in sequences:
        for at, left in enumerate(items):
            for gap, right in enumerate(items[at + 1 : at + 5]):
                if left != right:
                    expected[left, right] += 0.8**gap
                    expected[right, left] += 0.8**gap
    pairs = count_pairs(sequences, 9, 0.8, 4)
    np.testing.assert_allclose(pair_weights(pairs, pairs.T).toarray(), expected)
    assert count_pairs(sequences, 9, 1e-20, 4).nnz == count_pairs(sequences, 9, 1.0, 1).nnz


@given(
    histories=st.lists(st.text("abcdx", max_size=8), max_size=6),
    held_out=st.lists(st.tuples(st.integers(0, 7), st.sampled_from("abcdx"), st.integers(0, 8))),
)
def test_blocks_do_not_change_what_is_read_and_counted(
    histories: list[str], held_out: list[tuple[int, str, int]]
) -> None:
    examples = tuple(Example(f"u{user}", (), item, place) for user, item, place in held_out)
    split = split_of(histories, examples)
    leaks = {(f"u{user}", item, place) for user, item, place in held_out} & {*trained(split)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "BLOCK_EVENTS", 3)
        if leaks:
            with pytest.raises(
                RefusedError, match=rf"{len(leaks)} held-out event.* among the training events"
            ):
                count_cooccurrence(split, "abcd", window=5, decay=0.5)
            return
        sequences = item_sequences(split, "abcd")
        blocks = list(count_blocks(sequences, 4, 0.5, 3, limit=2))
    catalog_histories = [history.replace("x", "") for history in histories]
    assert ["".join("abcd"[item] for item in items) for items in sequences] == catalog_histories
    expected = count_pairs(sequences, 4, 0.5, 3).toarray()
    assert sum_pairs(blocks).toarray().tolist() == expected.tolist()


def test_events_of_unknown_items_are_not_counted() -> None:
    result = count_cooccurrence(split_of(["axb", "aa"]), "abz", window=1, decay=1.0)
    assert (result.events.tolist(), result.record.train_events) == ([3, 1, 0], 5)
    assert result.counts[0, 1] == 1


def test_many_names_are_looked_up_in_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass makes a table of all names."""
    passes = []
    index_in = pc.index_in

    def count(*arguments: Any, **options: Any) -> Any:
        passes.append(1)
        return index_in(*arguments, **options)

    monkeypatch.setattr(cooccurrence, "BLOCK_EVENTS", 3)
    monkeypatch.setattr(pc, "index_in", count)
    letters = "abcdefghijklmnopqrstuvwxyz"
    ids = [letter for letter in reversed(letters) if letter != "x"]
    sequences = item_sequences(split_of([letters, "xyz"]), ids)
    assert len(passes) == 1
    assert "".join(ids[number] for number in sequences.joined) == letters.replace("x", "") + "yz"


def test_the_record_is_that_of_the_training_part() -> None:
    other = split_of(["ab", "ba"], (Example("u0", ("a", "b"), "c", 2),))
    elsewhere = dataclasses.replace(other, origin=SplitOrigin("another file"))
    records = [
        count_cooccurrence(split, "abc", window=1, decay=1.0).record
        for split in (split_of(["ab", "ba"]), elsewhere, split_of(["ab", "ca"]))
    ]
    assert records[0] == records[1]
    assert records[2].train_digest != records[0].train_digest


def test_a_catalog_without_co_occurrences_is_refused() -> None:
    with pytest.raises(DataError, match="no two of the 2 items"):
        count_cooccurrence(split_of(["abc"]), "xy", window=5, decay=0.5)


@pytest.mark.parametrize(
    ("items", "pairs", "fitting", "overflowing"),
    [
        ([0, 1], 1, 7, 8),
        ([0, 1], 1, 7, 12),
        ([0, 1], 1, 7, 17),  # wrapped, those of 17 users would be one positive 2 ** 60
        ([0, 1, 2, 1, 2], 3, 2, 3),  # over several distances: 0 and 2 are once 2 apart, once 4
    ],
)
def test_a_weight_that_overflows_is_refused(
    monkeypatch: pytest.MonkeyPatch, items: list[int], pairs: int, fitting: int, overflowing: int
) -> None:
    monkeypatch.setattr(cooccurrence, "UNIT", 2.0**-60)  # an adjacent pair counts 2 ** 60
    sequence = np.array(items)
    assert count_pairs([sequence] * fitting, 3, 1.0).max() == pairs * fitting * 2**60
    with pytest.raises(DataError, match="two items co-occur too often"):
        count_pairs([sequence] * overflowing, 3, 1.0)
