"""The options of a recommendation, shared by the library and the command line."""

from dataclasses import dataclass, field

from sidtool.base.errors import UsageError
from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.recommendation.search.list_options import ListOptions
from sidtool.recommendation.search.results import Normalize


@dataclass(frozen=True)
class RecommendOptions:
    """How many items to recommend, how to search for them, and which items are excluded.

    Raises UsageError if `k` or `num_beams` is less than 1."""

    k: int = 10
    """Items per request."""
    num_beams: int = 50
    """Beam width: partial SIDs that survive each level. At least k are used."""
    normalize: Normalize | None = None
    """None: as the model was trained, which its contract records."""
    exclude_seen: bool = False
    """Never recommend an item of the request's history."""
    allow: tuple[str, ...] | None = None
    """Ids of the only items that may be recommended; None allows all. Holds for every request."""
    deny: tuple[str, ...] = ()
    """Ids of items that are never recommended. Holds for every request."""
    strict: bool = False
    """Refuse ids of allow and deny lists that the bundle lacks, in place of a warning."""
    list: ListOptions | None = None
    """Recommend one list, in the order in which the model writes it, in place of the k best next
    items; k is its length, and beams are partial lists. Needs a model that was trained on lists."""
    explain: bool = False
    """Say which part of each item's probability comes from the memory, and from which items."""

    fields: Fields = field(default=NO_FIELDS, hash=False)
    """Fields of every request that does not have its own."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k must be at least 1, not {self.k}")
        if self.list is not None and self.explain:
            raise UsageError("a list has no explanation: a memory has no part in it")
        if self.num_beams < 1:
            raise UsageError(f"the number of beams must be at least 1, not {self.num_beams}")
