import time
from collections.abc import Iterator

import pytest

from sidtool.base.errors import UsageError
from sidtool.base.threads import in_threads, meanwhile, run_in_threads, thread_count


def test_a_number_of_threads_is_at_least_one() -> None:
    with pytest.raises(UsageError, match="threads must be at least 1, not 0"):
        thread_count(0)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_a_few_ahead(threads: int) -> None:
    taken = []

    def values() -> Iterator[int]:
        for value in range(20):
            taken.append(value)
            yield value

    def square(value: int) -> int:
        time.sleep(0.001 * (value % 3))
        return value * value

    for number, result in enumerate(in_threads(square, values(), threads)):
        assert result == number**2
        assert len(taken) <= number + threads + 1


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("first", "error"), [(1, ValueError), (0, ZeroDivisionError)])
def test_an_error_of_a_value_waits_for_those_of_earlier_ones(
    threads: int, first: int, error: type[Exception]
) -> None:
    def values() -> Iterator[int]:
        yield first
        raise ValueError("of the second value")

    with pytest.raises(error):
        list(in_threads(lambda value: 1 // value, values(), threads))


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_are_run_and_the_first_failure_is_raised(threads: int) -> None:
    done: list[str] = []
    run_in_threads([lambda: done.append("one"), lambda: done.append("two")], threads)
    assert sorted(done) == ["one", "two"]
    with pytest.raises(ZeroDivisionError):
        run_in_threads([lambda: done.append("three"), lambda: 1 // 0, lambda: int("x")], threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_beside_a_block_is_done_and_its_failure_raised(threads: int) -> None:
    done: list[str] = []
    with meanwhile(lambda: done.append("step"), threads):
        done.append("block")
    assert sorted(done) == ["block", "step"]
    with pytest.raises(ZeroDivisionError), meanwhile(lambda: 1 // 0, threads):
        pass
