"""Options that several commands share, so that one thing has one name everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from sidtool.cli.console import read_config

Out = Annotated[Path, typer.Option("-o", "--out", help="Where to write; refused if it exists, without --force.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object (JSON Lines where there are many results).")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that a model brings, and load pickled weights.")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file of this command's options.", callback=read_config, is_eager=True),
]
Bundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle: NAME.zarr, NAME.zarr.zip or a URL.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model that extend-model or train wrote.")]
