"""The command train."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, progress, say, say_json


def train(
    model: options.Model,
    rows: Annotated[
        Path,
        typer.Argument(
            help="Training rows that make-sft wrote; its valid and meta files lie beside."
        ),
    ],
    out: options.Out,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Weights to train: full (all), embeddings (rows of the SID tokens) or lora (those "
            "rows and adapters)."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file of training settings; may list `stages`."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="SIDTOOL_TRAIN_SET",
            help="Training setting, key=value: sidtool's own or any SFTConfig field.",
        ),
    ] = None,
    valid: Annotated[
        Path | None, typer.Option(help="Validation users, if not those beside the rows.")
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            help="Trained model of the same bundle to learn from beside the rows; several teach "
            "their mean."
        ),
    ] = None,
    trust_remote_code: options.Trust = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Train a model on rows, and keep the checkpoint that recommends best on validation.

    A killed run leaves OUT.partial, and the same command goes on from there. Where the
    configuration lists stages, each trains what the one before it made, which stays beside the
    output as OUT-1-embeddings, OUT-2-full ..."""
    from sidtool.model.contract import read_contract
    from sidtool.output import refuse_existing
    from sidtool.sft.make_sft import read_lineage
    from sidtool.train.settings_file import read_stages
    from sidtool.train.stages import between
    from sidtool.train.stages import train_stages as run

    stages = read_stages(config, set_ or (), stage)
    if dry_run:
        refuse_existing(out, force)
        read_contract(model)
        trained = model
        for number, one in enumerate(stages, start=1):
            read_lineage(one.examples or rows)
            own, fields = one.options, one.sft_fields or "no further settings"
            made = out if number == len(stages) else between(out, number, one)
            note(
                f"would train {trained} on {one.examples or rows} with {own} and {fields}; output "
                f"{made}"
            )
            trained = made
        return None
    bars = {number: f"{number} {one.options.stage}" for number, one in enumerate(stages, start=1)}
    with progress(*bars.values()) as report:
        summaries = run(
            model,
            rows,
            out,
            stages,
            valid=valid,
            teachers=teacher or (),
            trust_remote_code=trust_remote_code,
            force=force,
            progress=lambda number: report.get(bars[number]),
            tell=partial(typer.echo, err=True),
        )
    if json:
        say_json(summaries[0] if len(summaries) == 1 else {"stages": summaries})
    else:
        say(*(f"{key}: {value}" for summary in summaries for key, value in summary.items()))
    return next_step(f"sidtool evaluate {out} SPLIT")
