"""The command that trains by rewards: rl."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from sidtool.base.errors import UsageError
from sidtool.cli.groups import Given
from sidtool.cli.terminal import options
from sidtool.cli.terminal.completion import complete_setting
from sidtool.cli.terminal.console import progress, say_plan
from sidtool.cli.terminal.training_log import notify, say_summaries, watch
from sidtool.training import ObjectiveOptions


def rl(
    model: options.Model,
    examples: Annotated[
        Path,
        typer.Argument(
            metavar="TRAIN",
            help="Training examples that make-sft wrote: their histories are the prompts, and the "
            "items that follow the targets.",
        ),
    ],
    out: options.Out,
    objective: Annotated[Mapping[str, str], Given(ObjectiveOptions())],
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            autocompletion=complete_setting("rl"),
            help="Setting, key=value; `sidtool settings rl` lists them.",
        ),
    ] = None,
    reward_input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD=PATH",
            help="What a reward scores items by: the memory of `collaborative`, the model of "
            "`label`, one that train made on predict-FIELD.",
        ),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            help="Split of the examples, if the prompt of MODEL or of a reward shows fields."
        ),
    ] = None,
    allow_worse_slices: Annotated[
        bool,
        typer.Option(
            "--allow-worse-slices",
            help="Accept a model that is worse than the start on rare or on frequent targets.",
        ),
    ] = False,
    trust_remote_code: options.Trust = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Train a trained model further by rewards of its own recommendations.

    Keeps the checkpoint that recommends best on the validation set, and refuses one that is worse
    than the start on a slice of targets. A killed run leaves OUT.partial, and the same command
    resumes it."""
    from sidtool.training import RL_SETTINGS, plan_rl, read_settings, run_rl

    pairs = [*(set_ or ()), *(f"{name}={value}" for name, value in objective.items())]
    rl_options, fields = read_settings(RL_SETTINGS, config, pairs)
    run = plan_rl(
        model,
        examples,
        out,
        rl_options,
        fields,
        reward_inputs=_parse_inputs(reward_input or ()),
        split=split,
        trust_remote_code=trust_remote_code,
        force=force,
    )
    if dry_run:
        return say_plan(f"would train: {run.inheritance()}", json=json, **run.to_json())
    with progress("train") as report:
        steps_of, log = watch()
        summary = run_rl(
            run,
            allow_worse_slices=allow_worse_slices,
            force=force,
            progress=steps_of(report.get("train")),
            log=log,
            notify=notify,
        )
    return say_summaries([summary.to_json()], out, json=json)


def _parse_inputs(texts: Iterable[str]) -> dict[str, str]:
    """`teacher=MODEL` as paths by the names of rewards. Raises UsageError for another form."""
    inputs = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not (name and path) or name in inputs:
            raise UsageError(f"--reward-input takes REWARD=PATH once per reward, not {text!r}")
        inputs[name] = path
    return inputs
