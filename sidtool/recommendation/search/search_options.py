"""The options of a search, which recommendations, evaluations and services share."""

from dataclasses import dataclass

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

    exclude_seen: bool = option(False)
    """Never recommend an item of the history."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SeenOptions, BeamOptions):
    """How items are searched for. Raises UsageError for a number out of range."""
