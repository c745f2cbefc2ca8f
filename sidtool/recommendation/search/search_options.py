"""The options of searches, which recommendations, evaluations and services share."""

from dataclasses import dataclass, replace
from typing import Self

from sidtool.base.options import check_options, option
from sidtool.recommendation.search.results import Normalize


@dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """How SIDs are searched for. Raises UsageError for a number out of range."""

    num_beams: int = option(50, minimum=1)
    """Beam width: number of partial SIDs that survive each level."""
    normalize: Normalize | None = option(None)
    """Normalize scores over all codes of the level, the valid next codes (trie), or the whole
    vocabulary. Default: as the model was trained."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class SeenOptions:
    """Whether items of a history are recommended."""

    exclude_seen: bool | None = option(None, panel="Seen items")
    """Never recommend an item of the history. Default: on unless more than 1 of 100 held-out
    targets of the split are items of their own history."""

    def with_seen(self, targets_repeat: bool | None) -> Self:
        """The options with this choice made, by `SplitReference.targets_repeat`."""
        if self.exclude_seen is not None:
            return self
        return replace(self, exclude_seen=targets_repeat is False)


def seen_reason(exclude_seen: bool | None, targets_repeat: bool | None) -> str:
    """What `SeenOptions.with_seen` decides and why, in words."""
    if exclude_seen not in (None, targets_repeat is False):
        return "seen items removed, as chosen" if exclude_seen else "seen items kept, as chosen"
    if targets_repeat is None:
        return "seen items kept: no split records whether targets repeat"
    if targets_repeat:
        return "seen items kept: more than 1 of 100 targets of the split repeat a seen item"
    return "seen items removed: at most 1 of 100 targets of the split repeats a seen item"


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SeenOptions, BeamOptions):
    """How items are searched for. Raises UsageError for a number out of range."""
