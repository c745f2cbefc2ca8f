import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidtool.examples.histories import sequence_windows


@given(st.lists(st.integers(0, 200), max_size=4), st.integers(1, 30))
def test_every_item_is_a_target_once(lengths: list[int], history_length: int) -> None:
    columns = sequence_windows(np.array(lengths, dtype=np.int64), history_length)
    rows = np.stack(columns, axis=1).tolist()
    assert [owner for owner, *_ in rows] == sorted(owner for owner, *_ in rows)
    for number, length in enumerate(lengths):
        windows = [window for owner, *window in rows if owner == number]
        targets = [target for _, first, stop in windows for target in range(first, stop)]
        assert targets == list(range(length))
        for start, first_target, stop in windows:
            assert start <= first_target < stop
            assert stop - start <= history_length + 1
            if start:  # the history before the window is cut off: half of it at least must remain
                assert first_target - start >= history_length / 2
        if length:
            start, _, stop = windows[-1]
            assert stop - start == min(length, history_length + 1)  # as when serving
