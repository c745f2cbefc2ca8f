import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sidtool.base.errors import DataError
from sidtool.recipes.budget import (
    EVALUATION_COST,
    TRAINING,
    TUNING,
    TUNING_COST,
    Budget,
    Speed,
    Work,
    choose_within,
    expected_seconds,
    read_speed,
    work_of,
)
from sidtool.recipes.budget import slowness as slowness_of
from sidtool.recipes.profile import Choices
from tests.recipes.conftest import Finished

WORK = Work(300, 20.0, validations=10, eval_users=2000, valid=5000, test=5000, has_memory=True)


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


def test_the_speed_leaves_out_the_starts_and_the_validations(tmp_path: Path) -> None:
    log = tmp_path / "machine.jsonl"
    seconds = (5.0, 6.0, 21.0, 22.5, 25.5)
    log.write_text("".join(f'{{"step": 1, "seconds": {value}}}\n' for value in seconds))
    assert read_speed(tmp_path, valid=40) == Speed(step=0.1, user=0.05)
    log.write_text('{"step": 1, "seconds": 1.0}\n')
    with pytest.raises(DataError, match="1 log lines"):
        read_speed(tmp_path, valid=40)


def test_a_training_without_a_log_was_as_fast_as_planned(tmp_path: Path) -> None:
    assert slowness_of(tmp_path, Choices(), WORK, Speed(0.01, 0.0001)) == 1.0


def test_a_training_that_no_epochs_measure_has_no_budget() -> None:
    assert work_of(SimpleNamespace(recipe=None, choices=Choices())) is None


@pytest.mark.parametrize("slowness", [0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("step", "user"), [(0.1, 0.0005), (0.1, 0.005), (0.02, 0.01)])
def test_a_machine_that_becomes_slower_keeps_the_budget(
    slowness: float, step: float, user: float, finished: Finished, tmp_path: Path
) -> None:
    total, speed = 600.0, Speed(step, user)
    clock = 60.0
    choices = choose_within(Choices(), WORK, speed, total=total, spent=clock)
    assert choices.epochs is not None
    budget = Budget(WORK, speed, total, tmp_path / "budget.json", {})
    all_steps = choices.epochs * WORK.steps_per_epoch
    validations = WORK.validations * (choices.eval_users or WORK.eval_users)
    needed = slowness * (all_steps * step + validations * user)
    limit = 60 * budget.training_minutes(choices, clock)
    share = min(1.0, limit / needed)
    model = tmp_path / "model"
    shutil.copytree(finished.folder / "model", model)
    line = {"step": share * all_steps, "seconds": share * needed}
    (model / "machine.jsonl").write_text(json.dumps(line) + "\n")
    clock += share * needed

    choices = budget.choose_again(choices, model, TRAINING, clock)
    clock += slowness * user * TUNING_COST * (choices.tuning_users or WORK.valid)
    choices = budget.choose_again(choices, model, TUNING, clock)
    clock += slowness * user * EVALUATION_COST * (choices.test_users or WORK.test)
    assert clock <= 1.3 * total
    if slowness <= 1:
        assert share == 1
    # a call that was killed continues with the same
    stored = json.loads(budget.file.read_text())
    again = Budget(WORK, speed, total, budget.file, stored)
    assert again.choose_again(Choices(), model, TUNING, clock) == choices


def test_users_behind_a_slow_training_are_fewer(finished: Finished, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(finished.folder / "model", model)
    (model / "machine.jsonl").write_text('{"step": 6000, "seconds": 1400}\n')
    budget = Budget(WORK, Speed(0.1, 0.005), 1000, tmp_path / "budget.json", {})
    planned = Choices(epochs=20.0)
    choices = budget.choose_again(planned, model, TRAINING, 950)
    assert choices.tuning_users == choices.test_users == 1285  # in 45 seconds
    assert budget.choose_again(planned, model, "evaluation", 990) == planned
