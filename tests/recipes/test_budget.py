"""The budget of time: what is chosen for a speed, and the speed that a log shows."""

from pathlib import Path

import pytest

from sidtool.base.errors import DataError
from sidtool.recipes.budget import Speed, Work, choose_within, expected_seconds, read_speed
from sidtool.recipes.profile import Choices

WORK = Work(
    steps_per_epoch=300,
    epochs=20.0,
    validations=10,
    eval_users=2000,
    valid=5000,
    test=5000,
    has_memory=True,
)


@pytest.mark.parametrize("total", [300.0, 600.0, 3000.0])
@pytest.mark.parametrize("step", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("user", [0.0005, 0.005])
def test_what_is_chosen_ends_in_time(total: float, step: float, user: float) -> None:
    speed = Speed(step, user)
    spent = 0.2 * total
    choices = choose_within(Choices(), WORK, speed, total=total, spent=spent)
    assert spent + expected_seconds(choices, WORK, speed) <= 1.02 * total
    assert choices.epochs is not None
    assert 0 < choices.epochs <= WORK.epochs


def test_time_for_all_changes_nothing() -> None:
    choices = choose_within(Choices(), WORK, Speed(0.01, 0.0001), total=10_000, spent=0)
    assert choices == Choices(epochs=20.0)


def test_a_machine_that_is_too_slow_still_trains_and_evaluates() -> None:
    choices = choose_within(Choices(), WORK, Speed(1.0, 1.0), total=60, spent=500)
    assert choices.epochs is not None
    assert choices.epochs > 0
    assert choices.test_users == choices.tuning_users == choices.eval_users == 200


def test_more_time_gives_no_fewer_epochs() -> None:
    epochs = [
        choose_within(Choices(), WORK, Speed(0.1, 0.002), total=total, spent=30).epochs
        for total in (60, 120, 300, 600, 1200)
    ]
    assert epochs == sorted(epochs, key=lambda value: value or 0)
    assert epochs[0] != epochs[-1]


def test_the_speed_leaves_out_the_start_and_the_validation(tmp_path: Path) -> None:
    log = tmp_path / "machine.jsonl"
    seconds = (5.0, 6.0, 9.0, 10.5)
    log.write_text("".join(f'{{"step": 1, "seconds": {value}}}\n' for value in seconds))
    assert read_speed(tmp_path, valid=40) == Speed(step=0.1, user=0.05)
    log.write_text('{"step": 1, "seconds": 1.0}\n')
    with pytest.raises(DataError, match="1 log lines"):
        read_speed(tmp_path, valid=40)
