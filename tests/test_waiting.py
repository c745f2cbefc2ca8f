"""A concurrent work that fails early does not block the others."""

from tests.waiting import Start, run_concurrently


def test_a_work_that_ends_before_the_start_keeps_no_other_waiting() -> None:
    start = Start(3)
    results = run_concurrently(start.wait, lambda: 1 / 0, start.wait, start=start)
    assert isinstance(results.pop(1), ZeroDivisionError)
    assert results == [None, None]
