"""The options of commands that recommend lists."""

from typing import Annotated

import typer

from sidtool.base.errors import UsageError
from sidtool.recommendation.search.list_options import ListOptions, ListSearch

_PANEL = "Lists"

Length = Annotated[
    int | None,
    typer.Option(
        "--list",
        metavar="M",
        help="Recommend one list of M items, in the order in which the model writes them, in place "
        "of the best next items. Needs a model that was trained on task list.",
        rich_help_panel=_PANEL,
    ),
]
Search = Annotated[
    ListSearch,
    typer.Option(
        "--list-search",
        help="Keep --num-beams partial lists (beam), keep one (greedy), or draw a list from the "
        "model (gumbel).",
        rich_help_panel=_PANEL,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        help="Of gumbel: below 1 draws are closer to the greedy list.",
        rich_help_panel=_PANEL,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        help="Of gumbel: the same seed and request give the same list.",
        rich_help_panel=_PANEL,
    ),
]
PrefixPenalty = Annotated[
    float,
    typer.Option(
        "--prefix-penalty",
        help="Subtract this from the rank of an item for each earlier item of the list with the "
        "same first code, in units of log-probability.",
        rich_help_panel=_PANEL,
    ),
]
Mmr = Annotated[
    float,
    typer.Option(
        "--mmr",
        help="Subtract this times the largest cosine similarity to an earlier item of the list, by "
        "the vectors of the codebook (maximal marginal relevance).",
        rich_help_panel=_PANEL,
    ),
]


def list_options(
    length: int | None,
    search: ListSearch,
    temperature: float,
    seed: int,
    prefix_penalty: float,
    mmr: float,
) -> ListOptions | None:
    """The options of lists, None without --list. Raises UsageError for those that require it."""
    options = ListOptions(search, temperature, seed, prefix_penalty, mmr)
    if length is None and options != ListOptions():
        raise UsageError(
            "--list-search, --temperature, --seed, --prefix-penalty and --mmr require --list"
        )
    return None if length is None else options
