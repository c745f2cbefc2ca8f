import numpy as np
import pyarrow as pa
import pytest

from sidtool.data.coded import arrow_numbers, numpy_codes, numpy_numbers


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64", "float64", "uint16"])
def test_numbers_are_the_same_in_arrow_and_numpy(dtype: str) -> None:
    numbers = np.arange(7, dtype=dtype)
    for part in (numbers, numbers[2:5], numbers[::2], numbers[:0]):
        array = arrow_numbers(part)
        assert array.equals(pa.array(part))
        np.testing.assert_array_equal(numpy_numbers(array), part)
        assert numpy_numbers(array).dtype == part.dtype
    whole = pa.array(numbers)
    np.testing.assert_array_equal(numpy_numbers(whole.slice(3, 2)), numbers[3:5])
    np.testing.assert_array_equal(numpy_numbers(whole.slice(7)), [])


def test_the_code_of_a_missing_value_is_below_zero() -> None:
    assert numpy_codes(pa.array([2, None, 0], pa.int32())).tolist() == [2, -1, 0]
    assert numpy_codes(pa.array([None, 3], pa.int32()).slice(1)).tolist() == [3]
    assert numpy_codes(pa.nulls(0, pa.int32())).tolist() == []
