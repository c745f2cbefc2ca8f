"""The options of a list, shared by the library and the command line."""

from dataclasses import dataclass
from typing import Literal, get_args

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, option

ListSearch = Literal["beam", "greedy", "gumbel"]
"""How a list is chosen: the best of several partial lists, the best code at each step, or a draw
from the model's distribution over lists."""


@dataclass(frozen=True)
class ListOptions:
    """How lists are searched for, and how much their items should differ.

    Raises UsageError for a negative number, a temperature of 0, and an option that the search does
    not use."""

    search: ListSearch = option("beam", flag="--list-search", panel="Lists")
    """Keep --num-beams partial lists (beam), keep one (greedy), or draw a list from the model
    (gumbel)."""
    temperature: float = option(1.0, above=0, panel="Lists")
    """Of gumbel: below 1 draws are closer to the greedy list."""
    seed: int = option(0, minimum=0, panel="Lists")
    """Of gumbel: the same seed and request give the same list."""
    prefix_penalty: float = option(0.0, minimum=0, panel="Lists")
    """Subtract this from the rank of an item for each earlier item of the list with the same first
    code, in units of log-probability."""
    mmr: float = option(0.0, minimum=0, panel="Lists")
    """Subtract this times the largest cosine similarity to an earlier item of the list, by the
    vectors of the codebook (maximal marginal relevance)."""

    def __post_init__(self) -> None:
        if self.search not in get_args(ListSearch):
            raise UsageError(
                f"search is one of {', '.join(get_args(ListSearch))}, not {self.search!r}"
            )
        check_options(self)
        if self.search == "gumbel" and self.is_diversified:
            raise UsageError(
                "a prefix penalty and MMR change what is the best list: they need search beam or "
                "greedy, not gumbel"
            )
        if self.search != "gumbel" and self.temperature != 1:
            raise UsageError(
                f"a temperature is that of draws: search {self.search} has none",
                hint="search gumbel draws lists",
            )

    @property
    def is_diversified(self) -> bool:
        """Whether ranks differ from scores."""
        return self.prefix_penalty > 0 or self.mmr > 0
