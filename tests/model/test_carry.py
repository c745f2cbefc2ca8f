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


def codes(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint16)


def test_renamed_codes_take_the_rows_of_their_old_names() -> None:
    old = codes((0, 0), (1, 1), (2, 2), (0, 3))
    new = codes((1, 3), (2, 2), (0, 1), (1, 0))
    carried = carried_rows(ROWS, INITIAL, old, new, SPACE)
    assert np.allclose(carried[[1, 2, 0]], ROWS[[0, 1, 2]], atol=1e-6)
    assert np.allclose(carried[3:7][[3, 2, 1, 0]], ROWS[3:7], atol=1e-6)
    assert np.array_equal(carried[7:], ROWS[7:])  # begin and end tokens


def test_a_code_without_common_items_is_initialized() -> None:
    carried = carried_rows(ROWS, INITIAL, codes((0, 0)), codes((2, 1)), SPACE)
    assert np.array_equal(carried[[0, 1]], INITIAL[[0, 1]])
    assert np.allclose(carried[2], ROWS[0], atol=1e-6)
    assert np.array_equal(carried[[3, 5, 6]], INITIAL[[3, 5, 6]])


@given(st.integers(0, 2**32 - 1))
def test_a_row_is_the_mean_over_the_items_of_its_code(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = np.stack([rng.integers(3, size=20), rng.integers(4, size=20)], axis=1).astype(np.uint16)
    new = np.stack([rng.integers(3, size=20), rng.integers(4, size=20)], axis=1).astype(np.uint16)
    carried = carried_rows(ROWS, INITIAL, old, new, SPACE)
    for level, start in enumerate((0, 3)):
        for code in set(new[:, level].tolist()):
            members = ROWS[start + old[new[:, level] == code, level].astype(int)]
            mean = members.mean(axis=0)
            length = np.linalg.norm(members, axis=1).mean()
            expected = mean / np.linalg.norm(mean) * length
            assert carried[start + code] == pytest.approx(expected, abs=1e-4)
