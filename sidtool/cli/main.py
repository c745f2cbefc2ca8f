"""The console script: every command by name, grouped by purpose."""

from typing import Annotated

import typer

from sidtool.cli import (
    bundles,
    codebook,
    data,
    evaluate,
    interop,
    lifecycle,
    memory,
    models,
    recommend,
    registry,
    rl,
    sft,
    split,
    train,
)
from sidtool.cli.outputs import Command
from sidtool.terminal.console import Commands

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "SIDTOOL",
        "max_content_width": 110,
    },
)

PANELS = {
    "Data": (data.check, split.split),
    "Tokenizer": (
        codebook.build_codebook,
        bundles.inspect,
        bundles.verify,
        bundles.encode,
        bundles.decode,
        interop.compare,
        interop.import_,
        interop.export,
    ),
    "Model": (models.init_model, models.extend_model, models.merge),
    "Training": (sft.make_sft, train.train, rl.rl, train.refresh),
    "Memory": (memory.build_memory, memory.tune_memory),
    "Inference": (recommend.recommend, evaluate.evaluate),
    "Life cycle": (
        lifecycle.add_items,
        lifecycle.diff,
        lifecycle.align,
        lifecycle.rebind,
        registry.log,
        registry.push,
        registry.pull,
        registry.tag,
    ),
}
"""Commands by the panel of `sidtool --help` that lists them."""

for panel, commands in PANELS.items():
    for command in commands:
        name = command.__name__.rstrip("_").replace("_", "-")
        app.command(name, cls=Command, rich_help_panel=panel)(command)


def _print_version(requested: bool) -> None:
    if requested:
        from sidtool import __version__

        typer.echo(f"sidtool {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        # SIDTOOL_VERSION, which a build may set, must not stop every command
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            allow_from_autoenv=False,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """Semantic IDs as a portable, versioned, verified tokenizer for generative recommendation."""


def main() -> None:
    """Run the command line."""
    app()
