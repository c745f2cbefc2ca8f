"""The options of a list, shared by the library and the command line."""

from dataclasses import dataclass
from typing import Literal, get_args

from sidtool.base.errors import UsageError

ListSearch = Literal["beam", "greedy", "gumbel"]
"""How a list is chosen: the best of several partial lists, the best code at each step, or a draw
from the model's distribution over lists."""


@dataclass(frozen=True)
class ListOptions:
    """How lists are searched for, and how much their items should differ.

    Raises UsageError for a negative number, a temperature of 0, and an option that the search does
    not use."""

    search: ListSearch = "beam"
    """`beam` keeps as many partial lists as there are beams, `greedy` one, `gumbel` draws."""
    temperature: float = 1.0
    """Of `gumbel`: below 1 draws are closer to the greedy list."""
    seed: int = 0
    """Of `gumbel`: the same seed and request give the same list."""
    prefix_penalty: float = 0.0
    """Subtracted from the rank of an item for each item before it with the same first code, in
    units of log-probability."""
    mmr: float = 0.0
    """Times the largest cosine similarity to an item before it, subtracted from the rank of an item
    (maximal marginal relevance, over the vectors of the codebook)."""

    def __post_init__(self) -> None:
        if self.search not in get_args(ListSearch):
            raise UsageError(
                f"search is one of {', '.join(get_args(ListSearch))}, not {self.search!r}"
            )
        for name in ("prefix_penalty", "mmr"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}, not a number from 0")
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"the temperature is {self.temperature}, not a number above 0")
        if self.search == "gumbel" and self.is_diversified:
            raise UsageError(
                "a prefix penalty and MMR change what is the best list: they need search beam or "
                "greedy, not gumbel"
            )
        if self.search != "gumbel" and (self.temperature != 1 or self.seed):
            raise UsageError(
                f"temperature and seed are those of draws: search {self.search} has none",
                hint="search gumbel draws lists",
            )

    @property
    def is_diversified(self) -> bool:
        """Whether ranks differ from scores."""
        return self.prefix_penalty > 0 or self.mmr > 0
