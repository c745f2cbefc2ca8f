"""The report command."""

from typing import Annotated

import typer

from sidtool.cli.reports.report import ReportOptions
from sidtool.cli.reports.report import report as write_report
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import say


def report(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT...",
            help="A bundle, a model folder of train or rl, or the JSON of `evaluate --json`; "
            "several of one kind are compared, bundles each with the one before (and a published "
            "one with the version that it was made from).",
        ),
    ],
    out: options.Out,
    shown: ReportOptions,
    force: options.Force = False,
) -> None:
    """Write an HTML page that shows a bundle, a training or an evaluation.

    The page is one file without scripts that opens from disk and loads nothing."""
    write_report(what, out, shown, force=force)
    say(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
