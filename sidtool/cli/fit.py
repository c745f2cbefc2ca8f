"""The commands fit and example: from two files to a verdict, and two files to begin with."""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from sidtool import recipes, training
from sidtool.base.errors import EXIT_INTERRUPTED, UsageError
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import as_step, is_verbose, next_step, note, say, say_json, warn
from sidtool.recipes import PARTS, RECIPES, Example, FitOptions, Ran, Recipe, StepError
from sidtool.training.reinforcement import RL_SETTINGS


def fit(
    items: Annotated[Path, "Catalog, in any format of build-codebook."],
    events: Annotated[Path, "Events on its items, in any format of split."],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Folder for everything; the same command continues it."),
    ],
    fitting: FitOptions,
    dry_run: Annotated[bool, "Print the steps as a shell script; write nothing."] = False,
    json: options.Json = False,
) -> None:
    """Fit a model with a memory to two files, and say how it compares with item-kNN.

    The steps are check, split, build-codebook, init-model, extend-model, make-sft, build-memory,
    train, tune-memory, evaluate and report; OUT/run.sh has them afterwards. A killed call continues
    when it is called again; a changed file or option repeats what depends on it."""
    check_keys(Recipe.named(fitting.recipe))
    if dry_run:
        steps = recipes.plan_fit(items, events, out, fitting)
        if json:
            return say_json({"dry_run": True, "steps": [step.arguments for step in steps]})
        title = f"sidtool fit {items} {events}, if there is time for all epochs"
        return say(*recipes.shell_script(steps, title).splitlines())
    try:
        fitted = recipes.fit(items, events, out, fitting, run_command=run_here, notify=note)
    except StepError as error:
        if error.exit_code == EXIT_INTERRUPTED:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        raise
    for text in fitted.warnings:
        warn(text)
    if json:
        say_json(fitted.to_json())
    else:
        say(str(fitted.verdict), f"report: {fitted.report}")
    took = f"{fitted.seconds / 60:.1f} of {fitting.minutes:g} min"
    note(f"{fitted.script} has the commands; they took {took}")
    return next_step(fitted.next)


def check_keys(recipe: Recipe) -> None:
    """Raise UsageError for a key of a recipe's file that the command of the file does not take."""
    # the recipes of the package are tested, and libraries that know the keys take seconds to load
    parts = PARTS if recipe.folder.parent != RECIPES else {}
    for part, command in parts.items():
        if recipe.has(part):
            _check_config(command, recipe.config(part))


def _check_config(command: str, config: Path) -> None:
    """Raise UsageError for a key of a file that is no `--config` of a command."""
    from sidtool.cli.main import make_app

    if command not in ("train", "rl"):
        commands: Any = typer.main.get_command(make_app(command))
        options.read_config(typer.Context(commands.commands[command], info_name=command), config)
        return
    try:
        if command == "train":
            training.read_stages(config)
        else:
            training.read_settings(RL_SETTINGS, config, ())
    except UsageError as error:
        raise UsageError(f"{config}: {error}", hint=error.shell_hint) from error


def run_here(arguments: list[str], stdout: TextIO) -> Ran:
    """Run a command as a step in this process, where torch is imported once."""
    from sidtool.cli.main import make_app

    # what is no result of `fit` is shown with -v only
    results = io.StringIO() if stdout is sys.stderr and not is_verbose() else stdout
    with as_step() as warnings, redirect_stdout(results):
        code = make_app(arguments[0])(arguments, standalone_mode=False)
    return Ran(code or 0, tuple(warnings))


def example(
    name: Annotated[Example, "The data set: movielens."],
    out: options.Out,
    force: options.Force = False,
) -> None:
    """Write the items and events of a public data set as two CSV files, to try sidtool on."""
    written = recipes.write_example(name, out, force=force)
    say(f"{written.items}: {written.n_items} items", f"{written.events}: {written.n_events} events")
    note(written.license)
    command = "sidtool fit {items} {events} -o FOLDER"
    return next_step(command, items=written.items, events=written.events)
