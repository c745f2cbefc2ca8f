"""The console script: every command by name, in the order of the road."""

from typing import Annotated

import typer

from sidtool.cli import (
    codebook,
    evaluate,
    interop,
    lifecycle,
    models,
    recommend,
    registry,
    sft,
    split,
    train,
)
from sidtool.cli.console import Commands

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
    help="Semantic IDs as a portable, versioned, verified tokenizer for generative recommendation.",
)

for command in (
    split.split,
    codebook.build_codebook,
    codebook.inspect,
    codebook.verify,
    codebook.encode,
    codebook.decode,
    interop.import_,
    interop.export,
    interop.compare,
    models.init_model,
    models.extend_model,
    sft.make_sft,
    train.train,
    models.merge,
    recommend.recommend,
    evaluate.evaluate,
    lifecycle.add_items,
    lifecycle.diff,
    lifecycle.align,
    lifecycle.rebind,
    registry.log,
    registry.push,
    registry.pull,
    registry.tag,
):
    app.command(command.__name__.rstrip("_").replace("_", "-"))(command)


def _version(asked: bool) -> None:
    if asked:
        from sidtool import __version__

        typer.echo(f"sidtool {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        # a variable SIDTOOL_VERSION, as a build may set, must not stop every command
        typer.Option(
            "--version",
            callback=_version,
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
