"""Windows over a history: every item is a target once, with enough history before it."""

from hypothesis import given
from hypothesis import strategies as st

from sidtool.examples.sequences import sequence_windows


@given(st.integers(0, 200), st.integers(1, 30))
def test_every_item_is_a_target_once(length: int, history_length: int) -> None:
    windows = sequence_windows(length, history_length)
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
