"""Ids of one artifact that another one lacks: how many are too many, and what may be wrong with
them."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from sidtool.base.errors import RefusedError, SummaryWarning
from sidtool.base.options import option
from sidtool.base.records import JsonRecord

MAX_UNKNOWN_SHARE = 0.2
"""A larger share of unknown ids is refused."""
MIN_ALIKE_SHARE = 0.5
"""Of the unknown ids at least so many must be known by another spelling to guess that it is
meant."""
NUMBER_ENDING = re.compile(r"\.0+$")


@dataclass(frozen=True, kw_only=True)
class UnknownOptions:
    """What is done about ids that the catalog or the bundle lacks."""

    allow_unknown: bool = option(False)
    """Continue although the catalog or the bundle lacks more than 20% of the ids."""


@dataclass(frozen=True)
class UnknownIds(JsonRecord):
    """How many ids of some artifact are unknown."""

    count: int
    total: int
    problem: str
    """What a share of is unknown: "events are of items that the catalog lacks"."""
    guess: str | None = None
    """How known and unknown ids differ, if they are alike."""

    @property
    def is_refused(self) -> bool:
        """Whether they are too many."""
        return self.count > MAX_UNKNOWN_SHARE * self.total

    @property
    def message(self) -> str:
        """What it says in words."""
        share = self.count / max(self.total, 1)
        text = f"{share:.1%} of {self.problem} ({self.count} of {self.total})"
        return text if self.guess is None else f"{text}; {self.guess}"

    def check(self, *, allow_unknown: bool) -> None:
        """Raise RefusedError if too many are unknown and `allow_unknown` is false; a SummaryWarning
        says that some are."""
        if self.is_refused and not allow_unknown:
            raise RefusedError(self.message, hint="mend the ids, or continue with --allow-unknown")
        if self.count:
            warnings.warn(self.message, SummaryWarning, stacklevel=3)


def guess_spelling(
    known: Iterable[str], unknown: Iterable[str], known_name: str, unknown_name: str
) -> str | None:
    """How ids differ that are equal without leading zeros, blanks, case and ".0", if most of the
    unknown ones have an equal: "ids of the catalog look like '0034', those of events like '34'"."""
    unknown = list(dict.fromkeys(filter(None, unknown)))
    if not unknown:
        return None
    known_of = {_plain(item): item for item in known}
    pairs = [(known_of[_plain(item)], item) for item in unknown if _plain(item) in known_of]
    if len(pairs) < MIN_ALIKE_SHARE * len(unknown):
        return None
    known_id, unknown_id = pairs[0]
    return (
        f"ids of {known_name} look like {known_id!r}, those of {unknown_name} like {unknown_id!r}"
    )


def _plain(item: str) -> str:
    """An id without what programs that read tables change."""
    return NUMBER_ENDING.sub("", item.strip().casefold()).lstrip("0")
