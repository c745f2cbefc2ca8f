import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.model.copies import carried_rows
from sidtool.tokenizer.sid import SidSpace

SPACE = SidSpace((3, 4))
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(len(SPACE.tokens), 5)).astype(np.float32)
INITIAL = RNG.normal(size=ROWS.shape).astype(np.float32)


@given(st.integers(0, 2**32 - 1))
def test_a_row_is_the_mean_over_the_items_of_its_code(seed: int) -> None:
    """Without one it is initialized."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 20))
    old, new = rng.integers(SPACE.sizes, size=(2, n, 2)).astype(np.uint16)
    carried = carried_rows(ROWS, INITIAL, old, new, SPACE)
    assert np.array_equal(carried[7:], ROWS[7:])  # begin and end tokens
    for level, (start, size) in enumerate(((0, 3), (3, 4))):
        for code in range(size):
            if code not in new[:, level]:
                assert np.array_equal(carried[start + code], INITIAL[start + code])
                continue
            members = ROWS[start + old[new[:, level] == code, level].astype(int)]
            mean = members.mean(axis=0)
            length = np.linalg.norm(members, axis=1).mean()
            expected = mean / np.linalg.norm(mean) * length
            assert carried[start + code] == pytest.approx(expected, abs=1e-4)
