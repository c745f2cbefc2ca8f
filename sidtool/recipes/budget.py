"""Keeps a budget of minutes: a short training is measured, and then the number of epochs and of
users is chosen so that training, memory and evaluation end in time. The training itself is measured
next: it ends early if it is much slower, and the users behind it are chosen again."""

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sidtool.base.errors import DataError
from sidtool.base.output import write_whole
from sidtool.base.records import JsonRecord
from sidtool.data.split import read_manifest
from sidtool.examples import read_lineage
from sidtool.model.contract import TrainParams, read_contract
from sidtool.recipes.plan import Plan
from sidtool.recipes.profile import Choices
from sidtool.recipes.steps import Step
from sidtool.training import MACHINE_FILE, TrainOptions, read_log

PROBE_STEPS = 10
"""Of each of five parts; a validation follows on the second and on the fourth."""
PROBE_USERS = 100
TUNING_COST = 2.0
"""Time of a user in `tune-memory`, in that of a user in validation."""
EVALUATION_COST = 1.5
"""The same in `evaluate`, which also ranks without the memory."""
AFTER_SHARE = 0.4
"""Of the time that is left; the weight of the memory and the evaluation get no more."""
VALIDATION_SHARE = 0.15
"""Of the time of the training; validation gets no more, except for MIN_USERS."""
MIN_STEP_SHARE = 0.05
"""Of the time of the training; steps get at least that, whatever MIN_USERS take."""
MIN_USERS = 200
"""Users of validation, tuning and evaluation at least, if there are so many."""
LEAST_SHARE = 0.3
"""Of the whole budget; training, memory and evaluation get at least that."""
MARGIN = 0.9
"""Of the time that is left; the rest is for starts of commands and slower steps."""
LATEST = 1.15
"""Of the whole budget; what the training may take until it is stopped, with the evaluation of
MIN_USERS users behind it at half the speed."""
FILE = "budget.json"
TRAINING, TUNING = "training", "weight of the memory"
"""The steps behind which the users of later ones are chosen again."""


@dataclass(frozen=True)
class Speed(JsonRecord):
    """Seconds that the machine takes, as a short training measured them."""

    step: float
    """Of a training step."""
    user: float
    """Of a validation user."""


@dataclass(frozen=True)
class Work(JsonRecord):
    """How much there is to do."""

    steps_per_epoch: int
    epochs: float
    """Epochs that are enough."""
    validations: int
    eval_users: int
    """Users of a validation, as the recipe says."""
    valid: int
    """Validation users of the split."""
    test: int
    has_memory: bool


def work_of(plan: Plan) -> Work | None:
    """The work of a plan whose examples were made; None for a training that no epochs measure."""
    recipe = plan.recipe
    if plan.choices.epochs is None:
        return None
    counts = read_manifest(plan.split).counts
    n_examples = sum(task.examples for task in read_lineage(plan.examples_of("sft")).tasks.values())
    # each event is the target of an example
    if recipe.settings("train").get("sliding_windows") == "all":
        n_examples = counts.train_events
    steps_per_epoch = max(1, math.ceil(n_examples / recipe.batch_size))
    eval_users = int(recipe.number("train", "eval_users", TrainOptions.eval_users)) or counts.valid
    every = recipe.number("train", "eval_steps", 1)
    return Work(
        steps_per_epoch=steps_per_epoch,
        epochs=plan.choices.epochs,
        validations=round(1 / every) if 0 < every < 1 else 10,
        eval_users=min(eval_users, counts.valid),
        valid=counts.valid,
        test=counts.test,
        has_memory=recipe.has("memory"),
    )


def probe(plan: Plan) -> Step:
    """A short training that is measured: log lines before and after two validations."""
    settings: dict[str, object] = {
        "max_steps": 5 * PROBE_STEPS,
        "logging_steps": PROBE_STEPS,
        "eval_strategy": "steps",
        "eval_steps": 2 * PROBE_STEPS,
        "save_strategy": "steps",
        "save_steps": 2 * PROBE_STEPS,
        "eval_users": PROBE_USERS,
    }
    out = plan.folder / "probe"
    return replace(plan.training(out, settings), name="speed")


def read_speed(probe: Path, valid: int) -> Speed:
    """The speed that the short training measured. Raises DataError if its log lacks lines."""
    seconds = [entry["seconds"] for entry in read_log(probe / MACHINE_FILE)]
    if len(seconds) < 5:
        raise DataError(f"{probe} has {len(seconds)} log lines, not 5")
    # the first part has the start of the libraries, the third and the fifth have a validation, the
    # first of which loads what it needs
    second, third, fourth, fifth = (after - before for before, after in pairwise(seconds[:5]))
    part = min(second, fourth)
    users = max(1, min(PROBE_USERS, valid))
    return Speed(step=part / PROBE_STEPS, user=max(0.0, min(third, fifth) - part) / users)


def choose_within(
    choices: Choices, work: Work, speed: Speed, *, total: float, spent: float
) -> Choices:
    """The choices with which the rest ends in `total` seconds, of which `spent` are gone."""
    seconds_left = MARGIN * max(total - spent, LEAST_SHARE * total)
    # tuning and evaluation: all users, or the share of them that takes AFTER_SHARE of the time
    seconds_of_all = speed.user * _user_costs(work, work.valid, work.test)
    share = min(1.0, AFTER_SHARE * seconds_left / max(seconds_of_all, 1e-9))
    training = seconds_left - share * seconds_of_all
    # validation: all its users, or as many as VALIDATION_SHARE allows, but at least MIN_USERS
    per_user = speed.user * work.validations
    allowed = int(VALIDATION_SHARE * training / max(per_user, 1e-9))
    eval_users = min(work.eval_users, max(MIN_USERS, allowed))
    # the steps get the rest
    step_seconds = max(training - per_user * eval_users, MIN_STEP_SHARE * training)
    epochs = min(work.epochs, step_seconds / (speed.step * work.steps_per_epoch))
    # two digits, which a command line shows
    digits = 0 if epochs >= 10 else 1 - math.floor(math.log10(epochs))
    return replace(
        choices,
        epochs=math.floor(epochs * 10**digits) / 10**digits,
        eval_users=None if eval_users == work.eval_users else eval_users,
        tuning_users=_part(work.valid, share),
        test_users=_part(work.test, share),
    )


@dataclass
class Budget:
    """The time of one call, and what was chosen by it. Choices are in a file, so that a killed call
    continues with the same."""

    work: Work
    speed: Speed
    total: float
    """Seconds."""
    file: Path
    record: dict[str, Any]
    """What the file has."""

    def training_minutes(self, choices: Choices, spent: float) -> float:
        """When the training is stopped."""
        work, speed = self.work, self.speed
        users = _user_costs(work, min(MIN_USERS, work.valid), min(MIN_USERS, work.test))
        latest = LATEST * self.total - spent - 2 * speed.user * users
        return max(_training_seconds(choices, work, speed), latest) / 60

    def choose_again(self, choices: Choices, model: Path, done: str, spent: float) -> Choices:
        """The choices behind the step `done`, by the speed of the training in `model` and the time
        that is left, as they were recorded if they were."""
        if done not in (TRAINING, TUNING):
            return choices
        if done not in self.record:
            work = self.work
            has_tuned = done == TUNING
            user = self.speed.user * slowness(model, choices, work, self.speed)
            cost = user * _user_costs(work, 0 if has_tuned else work.valid, work.test)
            share = min(1.0, MARGIN * max(0.0, self.total - spent) / max(cost, 1e-9))
            params = read_contract(model).params
            assert isinstance(params, TrainParams)
            later_choices = replace(
                choices,
                tuning_users=choices.tuning_users if has_tuned else _part(work.valid, share),
                test_users=_part(work.test, share),
                stop_step=params.options.get("stop_step"),
            )
            self.record[done] = later_choices.to_json()
            write_whole(self.file, json.dumps(self.record, indent=1) + "\n")
        return Choices.from_json(self.record[done])


def slowness(model: Path, choices: Choices, work: Work, speed: Speed) -> float:
    """How many times as long as planned a training took until its last log line, 1 without any."""
    log = read_log(model / MACHINE_FILE)
    if not log:
        return 1.0
    last = log[-1]
    all_steps = (choices.epochs or work.epochs) * work.steps_per_epoch
    planned = last["step"] / all_steps * _training_seconds(choices, work, speed)
    return last["seconds"] / max(planned, 1e-9)


def _part(users: int, share: float) -> int | None:
    """A share of the users, None for all."""
    part = max(int(share * users), MIN_USERS)
    return part if part < users else None


def expected_seconds(choices: Choices, work: Work, speed: Speed) -> float:
    """How long training, memory and evaluation take with these choices."""
    tuning, test = choices.tuning_users or work.valid, choices.test_users or work.test
    after = speed.user * _user_costs(work, tuning, test)
    return _training_seconds(choices, work, speed) + after


def _training_seconds(choices: Choices, work: Work, speed: Speed) -> float:
    """How long the training takes with these choices, its validations included."""
    steps = (choices.epochs or work.epochs) * work.steps_per_epoch
    users = work.validations * (choices.eval_users or work.eval_users)
    return steps * speed.step + speed.user * users


def _user_costs(work: Work, tuning_users: int, test_users: int) -> float:
    """The time of the weight of the memory and of the evaluation, in that of a validation user."""
    tuning = TUNING_COST * tuning_users if work.has_memory else 0.0
    return tuning + EVALUATION_COST * test_users
