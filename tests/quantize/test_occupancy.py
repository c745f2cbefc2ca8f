"""Places for items that come later, against a plain set of taken SIDs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.errors import RefusedError
from sidtool.quantize.occupancy import Occupancy, place
from sidtool.sid import SidSpace
from tests.quantize.material import codebook_of, vectors_of

SIZES = (3, 4, 2)


def occupied(seed: int, count: int) -> tuple[Occupancy, set[tuple[int, ...]]]:
    every = np.array(np.unravel_index(np.arange(24), SIZES)).T.astype(np.uint16)
    codes = np.random.default_rng(seed).permutation(every)[:count]
    return Occupancy(SidSpace(SIZES), codes), {tuple(code) for code in codes.tolist()}


@given(seed=st.integers(0, 999), count=st.integers(0, 24), depth=st.integers(0, 2))
def test_taken_counts_what_a_set_counts(seed, count, depth):
    occupancy, taken = occupied(seed, count)
    new = next((sid for sid in np.ndindex(SIZES) if sid not in taken), None)
    if new is not None:
        occupancy.taken(new[:depth])
        occupancy.take(new)
        taken.add(new)
    for prefix in np.ndindex(SIZES[:depth]):
        expected = [
            sum(sid[: depth + 1] == (*prefix, code) for sid in taken)
            for code in range(SIZES[depth])
        ]
        assert occupancy.taken(prefix).tolist() == expected


def test_space_of_64_bits():
    codes = np.array([[0, 0], [2**16 - 1] * 2], dtype=np.uint16)
    occupancy = Occupancy(SidSpace((2**16,) * 4, template="<{level}{code}>"), np.tile(codes, 2))
    assert occupancy.taken(())[[0, 1, -1]].tolist() == [1, 0, 1]
    assert occupancy.taken((2**16 - 1,) * 3)[-2:].tolist() == [0, 1]


@settings(deadline=None)
@given(seed=st.integers(0, 999), before=st.integers(0, 10), cut=st.integers(0, 12))
def test_new_items_get_free_codes_in_order_whatever_the_batches(seed, before, cut):
    codebook, vectors = codebook_of(seed, SIZES, 4), vectors_of(seed + 50, 12, 4)
    occupancy, taken = occupied(seed, before)
    whole = place(vectors, codebook, occupancy)
    assert len({tuple(sid) for sid in whole.tolist()} | taken) == before + 12
    occupancy, _ = occupied(seed, before)
    parts = [place(part, codebook, occupancy) for part in (vectors[:cut], vectors[cut:])]
    assert (np.concatenate(parts) == whole).all()
    raw = codebook.encode(vectors)
    for row, (own, got) in enumerate(zip(raw.tolist(), whole.tolist(), strict=True)):
        free_before = tuple(own) not in taken | {tuple(sid) for sid in whole[:row].tolist()}
        assert (own == got) == free_before


def test_full_space_is_refused():
    occupancy, _ = occupied(0, 23)
    codebook = codebook_of(0, SIZES, 4)
    place(vectors_of(0, 1, 4), codebook, occupancy)
    with pytest.raises(RefusedError, match="all 24 semantic IDs are taken"):
        place(vectors_of(1, 1, 4), codebook, occupancy)
