"""From two files to a verdict: check, split, codebook, model, examples, memory, training,
evaluation, report."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidtool.base.documents import parse_json
from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.base.extras import require
from sidtool.base.options import MAX_TRAINING_SEED, check_options, group, option, options_from
from sidtool.base.output import disk_errors, remove, write_whole
from sidtool.base.output_lock import hold_lock
from sidtool.base.output_name import check_name
from sidtool.base.records import JsonRecord
from sidtool.data import CatalogNames, EventNames, UnknownOptions
from sidtool.data.prepare import clean_tables, read_tables, report
from sidtool.data.split import open_split
from sidtool.evaluation import EvaluationVerdict, StoredEvaluation, check_targets
from sidtool.examples import read_lineage
from sidtool.model.contract import read_contract
from sidtool.recipes.budget import (
    FILE,
    TRAINING,
    Budget,
    Speed,
    choose_within,
    expected_seconds,
    probe,
    read_speed,
    work_of,
)
from sidtool.recipes.plan import Plan, check_step
from sidtool.recipes.profile import Choices, DataProfile, choose, measure
from sidtool.recipes.recipe import Inputs, Recipe
from sidtool.recipes.steps import RECORDS, RunCommand, Step, Steps, shell_script
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import read_settings
from sidtool.training.reinforcement import RL_SETTINGS, checked_rewards, complete_fields

SCRIPT = "run.sh"
COPY = "recipe"
"""The folder of the recipe's files, as the script reads them."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a model is fitted to two files. Raises UsageError for a budget that is no time."""

    recipe: str = option("default")
    """A recipe of the package (docs/fit.md lists them), or a folder of YAML files, each the
    --config of one command."""
    minutes: float = option(10.0, above=0)
    """Time for all steps; if it is short, there are fewer epochs and fewer users to evaluate on."""
    model: str | None = option(None)
    """Language model, for a recipe that makes none of its own: hf://ORG/NAME, or a folder."""
    encoder: str = option("lexical")
    """Encoder of the items' texts, as of build-codebook: lexical needs no download."""
    text_template: str | None = option(None)
    """Text of an item from columns, like "{title}. {description}". Default: the title and up to
    three other columns of text."""
    fix: bool = option(False)
    """Continue with cleaned copies of the files (FOLDER/data) where problems would stop a build."""
    seed: int = option(0, minimum=0, maximum=MAX_TRAINING_SEED)
    """Seed of all random numbers."""
    columns: CatalogNames = group(CatalogNames)
    """Columns of the catalog."""
    names: EventNames = group(EventNames)
    """Columns of the events."""
    checks: UnknownOptions = group(UnknownOptions)
    """What the check allows."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Fitted(JsonRecord):
    """What `fit` made."""

    verdict: EvaluationVerdict
    next: str
    """What to try next."""
    model: str
    report: str
    script: str
    recipe: str
    profile: DataProfile
    choices: Choices
    seconds: float
    """Of all steps, also of earlier runs."""
    warnings: tuple[str, ...]
    """Of all steps."""


@dataclass
class _Road:
    """One run of the steps in one folder."""

    steps: Steps
    minutes: float
    notify: Callable[[str], None]
    clock: Callable[[], float]
    started: float
    """When the call began, by the clock."""
    done: int = 0
    total: int = 0
    expected_end: float | None = None
    """Seconds from the start, when all is expected to be done; None until the speed is known."""

    @property
    def spent(self) -> float:
        """Seconds, also of the steps of earlier runs."""
        return max(self.steps.seconds(), self.clock() - self.started)

    def do(self, step: Step) -> None:
        """Run a step unless it is done, and say which one it is."""
        self.done += 1
        end, qualifier = self.minutes * 60, "at most"
        if self.expected_end is not None:
            end, qualifier = self.expected_end, "about"
        left = f"{qualifier} {max(0.0, end - self.spent) / 60:.1f} min left"
        self.notify(f"step {self.done} of {self.total}: {step.name}; {left}")
        self.steps.do(step)


def fit(
    items: str | Path,
    events: str | Path,
    out: str | Path,
    options: FitOptions | None = None,
    *,
    run_command: RunCommand | None = None,
    notify: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    **keywords: Any,
) -> Fitted:
    """Fit a model with a memory to a catalog and its events, evaluate it, and say how it compares
    with item-kNN. The options may also be given as keywords, like `minutes=5`.

    Each step is one sidtool command, whose output is in the folder `out`; `run_command` runs it, by
    default in a process of its own. A killed call continues when it is called again, and a changed
    file or option repeats what depends on it. `out/run.sh` has the commands.

    Raises RefusedError for files that a build would refuse, without `fix`; UsageError for a folder
    that is not of this function; StepError for a command that fails.

    Examples:
        >>> fitted = sidtool.fit("items.jsonl", "events.csv", "shop")  # doctest: +SKIP
        >>> fitted.verdict.standing  # doctest: +SKIP
        'ahead'
    """
    options = options_from(FitOptions, options, keywords)
    out = Path(out)
    raw = _inputs(items, events, out, options)
    # what a build would refuse is refused before anything is written, unless it is cleaned first
    profile = None if options.fix else _measured(raw)
    recipe = Recipe.named(options.recipe)
    first = check_step(raw, out, fixes=options.fix)
    inputs = raw.cleaned(first.output) if options.fix else raw
    total = 1 + len(_plan(options, recipe, inputs, profile, out).steps())
    (out / RECORDS).mkdir(parents=True, exist_ok=True)
    with disk_errors(out), hold_lock(out / RECORDS):  # beside `out` may be no place for a lock
        steps = Steps(out, run_command, replaces=True, clock=clock)
        road = _Road(steps, options.minutes, notify, clock, clock(), total=total)
        road.do(first)
        profile = profile or _measured(inputs)
        # the script needs no file of the installation
        plan = _plan(options, recipe.copied(out / COPY), inputs, profile, out)
        road.total = 1 + len(plan.steps())
        for step in plan.before_training():
            road.do(step)
        _check_targets(plan)
        _check_rewards(plan)
        plan, budget = _within_budget(plan, road)
        for name in [step.name for step in plan.from_training()]:
            # what was chosen behind the step before changes the later ones
            (step,) = (step for step in plan.from_training() if step.name == name)
            if budget is not None and name == TRAINING:
                limit = budget.training_minutes(plan.choices, road.spent)
                step = replace(step, unrecorded=("--max-minutes", f"{limit:.3f}"))
            road.do(step)
            if budget is not None:
                model = plan.folder / "model"
                choices = budget.choose_again(plan.choices, model, name, road.spent)
                plan = replace(plan, choices=choices)
        script = out / SCRIPT
        write_whole(script, shell_script([first, *plan.steps()], f"sidtool fit {items} {events}"))
        evaluation = parse_json(plan.metrics.read_bytes())
        verdict = EvaluationVerdict.from_json(evaluation["verdict"])
        stored = StoredEvaluation.from_json(evaluation)
        prompt = read_contract(plan.model).history_prompt
        return Fitted(
            verdict=verdict,
            next=verdict.next_step(stored, str(plan.model), prompt),
            model=str(plan.model),
            report=str(plan.page),
            script=str(script),
            recipe=recipe.name,
            profile=profile,
            choices=plan.choices,
            seconds=round(road.spent, 1),
            warnings=(*steps.warnings, *_remarks(plan, profile, budget)),
        )


def plan_fit(
    items: str | Path, events: str | Path, out: str | Path, options: FitOptions | None = None
) -> list[Step]:
    """The steps that `fit` would run if there were time for all epochs; runs nothing. Raises as
    `fit`."""
    options = options or FitOptions()
    out = Path(out)
    raw = _inputs(items, events, out, options)
    recipe = Recipe.named(options.recipe)
    first = check_step(raw, out, fixes=options.fix)
    if not options.fix:
        return [first, *_plan(options, recipe, raw, _measured(raw), out).steps()]
    with TemporaryDirectory(prefix="sidtool-") as scratch:
        catalog, table = read_tables(raw.items, raw.events, raw.columns, raw.names)
        clean_tables(catalog, table, Path(scratch, "data"))
        profile = _measured(raw.cleaned(Path(scratch, "data")))
    return [first, *_plan(options, recipe, raw.cleaned(first.output), profile, out).steps()]


def _inputs(items: str | Path, events: str | Path, out: Path, options: FitOptions) -> Inputs:
    """The data set. Raises UsageError for a folder that is neither new, empty nor one of an earlier
    call, MissingPackageError for what a later step would lack."""
    check_name(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder")
    if out.exists() and any(out.iterdir()) and not (out / RECORDS).is_dir():
        raise UsageError(f"{out} has other files", hint="write to a new folder")
    require("train")
    require("report")
    return Inputs(Path(items), Path(events), options.columns, options.names, options.checks)


def _measured(inputs: Inputs) -> DataProfile:
    """The profile of files that a build accepts. Raises RefusedError for others, UsageError for
    columns that are neither named nor have common names."""
    items, events = inputs.items, inputs.events
    try:
        catalog, table = read_tables(items, events, inputs.columns, inputs.names)
    except UsageError as error:
        hint = error.shell_hint and f"{error.shell_hint}; --fix mends what else would stop a build"
        raise UsageError(str(error), hint=hint) from error
    checked = report(catalog, table, allow_unknown=inputs.checks.allow_unknown)
    cleaning = "--fix continues with cleaned copies; `sidtool check` lists every problem"
    hint = checked.mending_hint(items, events, table, cleaning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SidtoolWarning)  # the step `check` has the same
        checked.refuse_stops(hint, allow_unknown=inputs.checks.allow_unknown)
    assert table is not None
    return measure(catalog, table, checked)


def _plan(
    options: FitOptions, recipe: Recipe, inputs: Inputs, profile: DataProfile | None, out: Path
) -> Plan:
    """The plan for data, or one of as many steps for data that is not cleaned yet."""
    choices = Choices() if profile is None else choose(profile, recipe, options.minutes)
    if options.text_template is not None:
        choices = replace(choices, text_template=options.text_template)
    return Plan(recipe, inputs, out, options.encoder, options.seed, options.model, choices)


def _check_targets(plan: Plan) -> None:
    """Raise RefusedError before the training if the evaluation will refuse the test targets, as the
    bundle lacks too many; not for a recipe that evaluates on others or allows these."""
    settings = plan.recipe.settings("evaluate")
    if settings.keys() & {"on", "target", "allow_unknown"}:
        return
    test = open_split(plan.split).test
    targets = test.names[test.items].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SidtoolWarning)  # the evaluation has the same
        check_targets(Bundle.open(plan.bundle), targets, plan.inputs.checks)


def _check_rewards(plan: Plan) -> None:
    """Raise before the training as `rl` will behind it, for settings, rewards and training examples
    that do not fit together."""
    if not plan.recipe.has("rl"):
        return
    config, examples = plan.recipe.config("rl"), plan.examples_of("sft")
    try:
        options, fields = read_settings(RL_SETTINGS, config, ())
        complete_fields(options, fields)
        checked_rewards(options, plan.reward_inputs, read_lineage(examples), examples)
    except UsageError as error:
        raise UsageError(f"{config}: {error}", hint=error.shell_hint) from error


def _remarks(plan: Plan, profile: DataProfile, budget: Budget | None) -> Iterator[str]:
    """What limits the result: time, and events of low ratings."""
    choices = plan.choices
    if budget is not None and choices.epochs is not None:
        enough_epochs = budget.work.epochs
        stopped = ""
        if choices.stop_step is not None:
            stopped = f", and was stopped at step {choices.stop_step}, slower than measured before"
        if stopped or choices.epochs < enough_epochs:
            yield (
                f"the model had {choices.epochs:g} of {enough_epochs:g} epochs{stopped}: "
                "--minutes gives it more time"
            )
    if profile.rating is not None and not plan.recipe.settings("split").get("target"):
        yield (
            f"every event counts, whatever its {profile.rating}: a recipe with a split.yaml of "
            f'`feedback: [{profile.rating}]` and `target: ["{profile.rating}>=4"]` predicts liked '
            "items alone"
        )


def _within_budget(plan: Plan, road: _Road) -> tuple[Plan, Budget | None]:
    """The plan with the epochs and users that there is time for. The choice is recorded, so that a
    killed run continues with the same."""
    work = work_of(plan)
    if work is None:
        return plan, None
    file = plan.folder / FILE
    step = probe(plan)
    key = [road.minutes, work.to_json(), road.steps.fingerprint(step)]
    record = parse_json(file.read_bytes()) if file.exists() else {}
    if record.get("key") != key:
        road.notify("measuring the speed of this machine")
        speed = read_speed(road.steps.do(step), work.valid)
        total = road.minutes * 60
        choices = choose_within(plan.choices, work, speed, total=total, spent=road.spent)
        record = {"key": key, "speed": speed.to_json(), "choices": choices.to_json()}
        write_whole(file, json.dumps(record, indent=1) + "\n")
    remove(step.output)  # also that of a call that was killed here
    speed = Speed.from_json(record["speed"])
    choices = Choices.from_json(record["choices"])
    budget = Budget(work, speed, 60 * road.minutes, file, record)
    road.expected_end = road.spent + expected_seconds(choices, work, speed)
    road.notify(
        f"{choices.epochs:g} of {work.epochs:g} epochs; {speed.step * 1000:.0f} ms a step, "
        f"{speed.user * 1000:.0f} ms a validation user"
    )
    return replace(plan, choices=choices), budget
