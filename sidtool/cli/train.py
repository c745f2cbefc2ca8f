"""The commands that train: train, refresh, rl."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from sidtool import training
from sidtool.base.errors import UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import option
from sidtool.cli.groups import Given
from sidtool.cli.settings_table import Configurable, list_settings
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import say, say_json, say_table
from sidtool.cli.terminal.pace import progress
from sidtool.cli.terminal.training_log import notify, say_summaries, watch
from sidtool.data import CatalogNames
from sidtool.examples import TaskCatalogOptions, named_task
from sidtool.model import DEFAULT_PRESET, Preset
from sidtool.model.contract import read_contract
from sidtool.training import StageOptions, reinforcement, renewal
from sidtool.training.reinforcement import ObjectiveOptions
from sidtool.training.renewal import RefreshOptions


@keeps_inputs("a model")
def train(
    model: options.Model,
    examples: Annotated[
        Path,
        "Training examples that make-sft wrote: a file with those beside it, or a folder of parts "
        "at a path or URL.",
    ],
    out: options.Out,
    stage_options: Annotated[Mapping[str, str], Given(StageOptions())],
    config: Annotated[Path | None, "YAML file of training settings; may list `stages`."] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            autocompletion=lambda incomplete: options.setting_pairs("train", incomplete),
            help="Training setting, key=value; `sidtool settings train` lists them.",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        "Trained model with the same SIDs to distill from, or a memory of the examples' split; "
        "repeat it to use the mean of several.",
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Stop after this time, with a validation. The model records the step; --set "
            "stop_step=STEP instead of this makes the same model.",
        ),
    ] = None,
    trust_remote_code: options.Trust = False,
    writing: options.Writing = options.Writing(),
) -> None:
    """Train a model and keep the checkpoint that recommends best on the validation set.

    A killed run leaves OUT.partial, and the same command resumes it. If the configuration lists
    stages, each trains the output of the one before; intermediate outputs stay beside the last one,
    as OUT-1-embeddings."""
    pairs = (*(set_ or ()), *(f"{name}={value}" for name, value in stage_options.items()))
    stages = training.read_stages(config, pairs)
    if writing.dry_run:
        planned = training.plan_stages(
            model,
            examples,
            out,
            stages,
            teachers=teacher or (),
            force=writing.force,
            max_minutes=max_minutes,
            trust_remote_code=trust_remote_code,
        )
        training.check_stages(planned, force=writing.force)
        lines = [f"would train {stage}" for stage in planned]
        return writing.plan("\n".join(lines), stages=[stage.to_json() for stage in planned])
    labels = [f"{number} {stage.options.stage}" for number, stage in enumerate(stages, start=1)]
    with progress(*labels) as report:
        step_progress, log = watch()
        summaries = training.train_stages(
            model,
            examples,
            out,
            stages,
            teachers=teacher or (),
            force=writing.force,
            max_minutes=max_minutes,
            trust_remote_code=trust_remote_code,
            progress=lambda number: step_progress(report.get(labels[number - 1])),
            log=log,
            notify=notify,
        )
    task, source = read_contract(out).measured_task, "SPLIT"
    if task is not None and not named_task(task).of_users:
        source = str(stages[-1].examples or examples)
    values = [summary.to_json() for summary in summaries]
    return say_summaries(values, out, json=writing.json, split=source, task=task)


def settings(
    command: Annotated[Configurable, "A command with --set."],
    preset: Annotated[Preset, "Model whose configuration init-model sets."] = DEFAULT_PRESET,
    json: options.Json = False,
) -> None:
    """List every setting that a command takes by --set key=value: type, default and meaning."""
    for group, settings in groupby(list_settings(command, preset=preset), attrgetter("group")):
        if json:
            for setting in settings:
                say_json(setting.to_json())
            continue
        rows = [
            (setting.key, setting.type, setting.spelled_default, setting.meaning)
            for setting in settings
        ]
        say_table(["key", "type", "default", "meaning"], rows, title=group)
        say("")


@keeps_inputs("a model")
def refresh(
    model: options.Model,
    bundle: Annotated[str, "The newer bundle: other items, or retrained."],
    out: options.Out,
    refresh_options: RefreshOptions,
    columns: CatalogNames,
    split: Annotated[
        Path | None,
        typer.Argument(
            help="Split of the newer events, made with --extends. Without it nothing is trained."
        ),
    ] = None,
    items: Annotated[
        Path | None,
        "Catalog, if the model's tasks show text of items, or if its memory compares vectors and "
        "was built for another bundle: the texts of the items are embedded then.",
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        "Vectors of the items, if the model's memory compares them and was built for another "
        "bundle.",
    ] = None,
    trust_remote_code: options.Trust = False,
    writing: options.Writing = options.Writing(),
) -> None:
    """Bring a trained model to a newer bundle and newer events by a short training stage.

    The codes of a retrained codebook are aligned with the model's, its embedding rows are carried
    over, and the tasks of its last training stage are trained for a share of its epochs."""
    plan = renewal.plan_refresh(
        model,
        bundle,
        out,
        split=split,
        items=items,
        embeddings=embeddings or (),
        catalog_options=TaskCatalogOptions(**asdict(columns)),
        options=refresh_options,
        trust_remote_code=trust_remote_code,
        force=writing.force,
    )
    if writing.dry_run:
        message = plan.verdict.message or "the same bundle"
        text = f"would write {plan.out}, {model} with the newer bundle: {message}"
        values: dict[str, Any] = {"model": str(plan.out), "bundle": plan.verdict.kind}
        values["reassigned_share"] = plan.verdict.reassigned_share
        if plan.last is not None and plan.split is not None:
            train_options, sft_fields = renewal.training_settings(plan.last, plan.options)
            tasks, settings = ", ".join(plan.last.task_weights), dict(sft_fields)
            if train_options.token_budget is not None:
                settings["token_budget"] = train_options.token_budget
            text += f"\nwould train {tasks} on split {plan.split.reference}, {settings}"
            values["tasks"] = dict(plan.last.task_weights)
            values["split"] = plan.split.reference.digest
            values["options"] = asdict(train_options)
            values["settings"] = dict(sft_fields)
        return writing.plan(text, **values)
    with progress("train") as report:
        step_progress, log = watch()
        summary = renewal.run_refresh(
            plan,
            force=writing.force,
            progress=step_progress(report.get("train")),
            log=log,
            notify=notify,
        )
    return say_summaries([summary.to_json()], out, split=split or "SPLIT", json=writing.json)


@dataclass(frozen=True)
class RlInputs:
    """What rl takes beside the examples and the objective."""

    pairs: tuple[str, ...] = option(
        (), flag="--set", panel="Training", completes=lambda: options.setting_pairs("rl")
    )
    """Setting, key=value; `sidtool settings rl` lists them."""
    reward_input: tuple[str, ...] = option((), metavar="REWARD=PATH")
    """What a reward scores items by: for `label`, for example, a model that train made on
    predict-FIELD."""
    split: Path | None = option(None)
    """Split of the examples, if the prompt of MODEL or of a reward shows fields."""
    allow_worse_slices: bool = option(False)
    """Accept a model that is worse than the start on rare or on frequent targets."""
    trust_remote_code: bool = option(False)
    """Run a model's own code and load pickled weights."""


@keeps_inputs("a model")
def rl(
    model: options.Model,
    examples: Annotated[
        Path,
        "Training examples that make-sft wrote: their histories are the prompts, and the items "
        "that follow the targets.",
        "TRAIN",
    ],
    out: options.Out,
    objective: Annotated[Mapping[str, str], Given(ObjectiveOptions())],
    config: Annotated[Path | None, "YAML file of settings."] = None,
    inputs: RlInputs = RlInputs(),
    writing: options.Writing = options.Writing(),
) -> None:
    """Train a trained model further by rewards of its own recommendations.

    Keeps the checkpoint that recommends best on the validation set, and refuses one that is worse
    than the start on a slice of targets. A killed run leaves OUT.partial, and the same command
    resumes it."""
    pairs = [*inputs.pairs, *(f"{name}={value}" for name, value in objective.items())]
    rl_options, fields = training.read_settings(reinforcement.RL_SETTINGS, config, pairs)
    reward_inputs = _parse_inputs(inputs.reward_input)
    if writing.dry_run:
        run = reinforcement.plan_rl(
            model,
            examples,
            out,
            rl_options,
            fields,
            reward_inputs=reward_inputs,
            split=inputs.split,
            trust_remote_code=inputs.trust_remote_code,
            force=writing.force,
        )
        reinforcement.check_rl(run, force=writing.force)
        return writing.plan(f"would train: {run.inheritance()}", **run.to_json())
    with progress("train") as report:
        step_progress, log = watch()
        summary = reinforcement.rl(
            model,
            examples,
            out,
            options=rl_options,
            grpo_fields=fields,
            reward_inputs=reward_inputs,
            split=inputs.split,
            allow_worse_slices=inputs.allow_worse_slices,
            force=writing.force,
            trust_remote_code=inputs.trust_remote_code,
            progress=step_progress(report.get("train")),
            log=log,
            notify=notify,
        )
    return say_summaries([summary.to_json()], out, json=writing.json)


def _parse_inputs(texts: Iterable[str]) -> dict[str, str]:
    """`label=MODEL` as paths by the names of rewards. Raises UsageError for another form."""
    inputs = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not (name and path) or name in inputs:
            raise UsageError(f"--reward-input takes REWARD=PATH once per reward, not {text!r}")
        inputs[name] = path
    return inputs
