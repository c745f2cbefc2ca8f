"""Options that several commands share, so that one thing has one name everywhere."""

import re
from pathlib import Path
from typing import Annotated

import typer

from sidtool.cli.console import read_config
from sidtool.errors import UsageError


def _seed(value: int) -> int:
    if value < 0:
        raise UsageError(f"a seed is 0 or more, not {value}")
    return value


UNITS = {"": 1} | {f"{unit}B": 1000**power for power, unit in enumerate(("", "k", "M", "G", "T"))}
UNITS |= {f"{unit}iB": 1024**power for power, unit in enumerate(("K", "M", "G", "T"), 1)}

Out = Annotated[
    Path, typer.Option("-o", "--out", help="Where to write; refused if it exists, without --force.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object (JSON Lines where there are many results)."),
]
Seed = Annotated[
    int, typer.Option(callback=_seed, help="Seed of everything that is drawn at random.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that a model brings, and load pickled weights."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file of this command's options.", callback=read_config, is_eager=True
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        help="Budget for the vectors that are held at once, like 4GiB; ids and codes come on top."
    ),
]
Bundle = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE", help="A bundle: NAME.zarr, NAME.zarr.zip, a URL or URL/NAME@VERSION."
    ),
]
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that extend-model or train wrote.")
]
Split = Annotated[
    Path,
    typer.Argument(
        metavar="SPLIT",
        help="Folder that `sidtool split` wrote, or a file of events (split by leave-one-out).",
    ),
]
Queries = Annotated[
    Path | None,
    typer.Option(
        help='JSON Lines of search queries {"item", "text"} and maybe "user", for query-to-sid.'
    ),
]
QueryText = Annotated[
    str | None,
    typer.Option(
        help='Compose a query for each item of catalog columns, like "{genre} from {year}".'
    ),
]


def bytes_of(text: str) -> int:
    """A size as people write it: "4GiB" -> 4294967296. Raises UsageError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text.strip())
    units = {name.lower(): factor for name, factor in UNITS.items()}
    if not found or found[2].lower() not in units:
        raise UsageError(
            f"a size is written like 4GiB, not {text!r}",
            hint=f"units are {', '.join(filter(None, UNITS))}",
        )
    return int(float(found[1]) * units[found[2].lower()])
