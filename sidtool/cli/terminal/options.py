"""Options that several commands share, so that each has one name and one help text."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sidtool.base.errors import UsageError
from sidtool.cli.terminal.completion import complete_reference
from sidtool.cli.terminal.config_file import read_config
from sidtool.data.interactions import Order as EventOrder
from sidtool.data.items import EmptyText as TextRule


def _check_seed(value: int) -> int:
    if value < 0:
        raise UsageError(f"a seed is 0 or more, not {value}")
    return value


_DECIMAL = {f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G", "T"))}
_BINARY = {f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)}
UNITS = {"": 1, **_DECIMAL, **_BINARY}
"""Bytes by unit."""

Out = Annotated[
    Path, typer.Option("-o", "--out", help="Output path; an existing one needs --force.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object (JSON Lines for many results)."),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print results, warnings and errors only.")
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print timings and what libraries report, too.")
]
Seed = Annotated[int, typer.Option(callback=_check_seed, help="Seed of all random numbers.")]
Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run a model's own code and load pickled weights."),
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
        help="Memory for vectors, like 4GiB; ids and codes need more on top.",
        rich_help_panel="Quantizer",
    ),
]
TextTemplate = Annotated[
    str | None,
    typer.Option(
        help="Text of an item, from catalog columns. Default: the title; with a bundle, as it was "
        "built."
    ),
]
ResumeParts = Annotated[
    bool, typer.Option("--resume", help="Keep the parts that an interrupted run finished.")
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(
        help="Where the work is done: in this process, or by workers of the Ray cluster of "
        "RAY_ADDRESS, of this machine if it is not set.",
        rich_help_panel="Workers",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Number of workers. Default: one per GPU of the cluster, else one per CPU.",
        rich_help_panel="Workers",
    ),
]
EventMemory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory for events, like 4GiB: more than fits is put into files beside the output.",
        rich_help_panel="Data",
    ),
]
Bundle = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="A bundle: NAME.zarr, NAME.zarr.zip, a URL or URL/NAME@VERSION.",
        autocompletion=complete_reference,
    ),
]
Artifact = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT",
        help="A bundle, memory or model: a path, a URL or URL/NAME@VERSION.",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model folder of extend-model or train, or hf://ORG/NAME."
    ),
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
        help='Search queries {"item", "text"}, optionally "user", for query-to-sid, as JSON '
        "Lines or a table."
    ),
]
QueryText = Annotated[
    str | None,
    typer.Option(
        help='Template of a generated query per item, from catalog columns: "{genre} from {year}".'
    ),
]
Field = Annotated[
    list[str] | None, typer.Option(help="Catalog column that item-text shows; repeatable.")
]


def id_column(panel: str | None = None) -> Any:
    """The option of a catalog's id column, in a panel of the help."""
    text = "Catalog column of item ids; guessed by default."
    return typer.Option(help=text, rich_help_panel=panel)


def title_column(panel: str | None = None) -> Any:
    """The option of a catalog's title column."""
    text = "Catalog column of titles; guessed by default."
    return typer.Option(help=text, rich_help_panel=panel)


def empty_text(panel: str | None = None) -> Any:
    """The option for items without text."""
    text = "Item without text: use its id as text, drop it, or fail."
    return typer.Option(help=text, rich_help_panel=panel)


def by_row(panel: str | None = None) -> Any:
    """The option for vectors without ids."""
    text = "Accept vectors without ids: row i is that of item i of the catalog."
    return typer.Option("--by-row", help=text, rich_help_panel=panel)


IdColumn = Annotated[str | None, id_column()]
TitleColumn = Annotated[str | None, title_column()]
EmptyText = Annotated[TextRule, empty_text()]
UserColumn = Annotated[
    str | None, typer.Option(help="Event column of user ids; guessed by default.")
]
ItemColumn = Annotated[
    str | None, typer.Option(help="Event column of item ids; guessed by default.")
]
OrderColumn = Annotated[
    str | None, typer.Option(help="Event column of time or order; guessed by default.")
]
Order = Annotated[
    EventOrder,
    typer.Option(help="What orders events: a column of time or order, or the rows of the file."),
]
ByRow = Annotated[bool, by_row()]
MovedEncoder = Annotated[
    str | None, typer.Option(help="Present location of the bundle's encoder, if it moved.")
]


def parse_bytes(text: str) -> int:
    """A size in bytes: "4GiB" -> 4294967296. Raises UsageError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text.strip())
    units = {name.lower(): factor for name, factor in UNITS.items()}
    if not match or match[2].lower() not in units:
        raise UsageError(
            f"{text!r} is not a size like 4GiB",
            hint=f"units are {', '.join(filter(None, UNITS))}",
        )
    return int(float(match[1]) * units[match[2].lower()])
