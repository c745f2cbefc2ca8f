"""The options of a recommendation, shared by the library and the command line."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sidtool.base.digests import digest_strings
from sidtool.base.errors import UsageError
from sidtool.base.options import option, read_ids
from sidtool.data import NO_FIELDS, Fields
from sidtool.recommendation.search.search_options import SearchOptions


@dataclass(frozen=True, kw_only=True)
class ItemOptions(SearchOptions):
    """How many items are recommended, and which. Raises UsageError for a number out of range."""

    k: int = option(10, minimum=1)
    """Items per request; at least as many beams are used."""
    allow: tuple[str, ...] | None = option(None, reads=read_ids)
    """Item ids, one per line: recommend no others."""
    deny: tuple[str, ...] = option((), reads=read_ids)
    """Item ids, one per line: never recommend these. An id that the bundle lacks is a warning."""


@dataclass(frozen=True, kw_only=True)
class RecommendOptions(ItemOptions):
    """The options of a recommendation. Raises UsageError for a number out of range, and for a list
    with an explanation."""

    strict: bool = option(False)
    """Refuse ids of allow and deny lists that the bundle lacks, in place of a warning; the command
    stops at the first request that cannot be answered, too."""
    explain: bool = option(False)
    """Show the memory's share of each item and the items it is based on."""
    list: bool = False
    """Recommend one list, in the order in which the model writes it, in place of the k best next
    items; k is its length, and beams are partial lists. Needs a model that was trained on lists."""
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """Fields of every request that does not have its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fields: Any = self.fields
        if not isinstance(fields, Fields):
            raise UsageError(f"fields are a Fields, like Fields(user={{...}}), not {fields!r:.60}")
        if self.list and self.explain:
            raise UsageError("a list has no explanation: a memory has no part in it")

    def record(self, candidates: Sequence[str] | None) -> dict[str, Any]:
        """The options and the candidates by name, with lists of ids as their digests."""
        record = {**asdict(self), "candidates": candidates}
        for name in ("allow", "deny", "candidates"):
            if record[name] is not None:
                record[name] = digest_strings(record[name])
        return record
