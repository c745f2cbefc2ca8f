"""Ids of one artifact that another one lacks: how many are too many, and what may be wrong with
them."""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sidtool.base.errors import RefusedError, SidtoolWarning
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

    def check_unknown(
        self,
        problem: str,
        known_ids: Iterable[str],
        unknown_ids: Sequence[str],
        sources: tuple[str, str],
        *,
        count: int,
        total: int,
    ) -> None:
        """Raise RefusedError if `count` of `total` are too many unknown ids, unless they are
        allowed; warn of fewer. `sources` names those of the known and of the unknown ids."""
        guess = guess_spelling(known_ids, unknown_ids, *sources)
        UnknownIds(count, total, problem, guess).check(allow_unknown=self.allow_unknown)


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
        """Raise RefusedError if too many are unknown and `allow_unknown` is false; a SidtoolWarning
        says that some are."""
        if self.is_refused and not allow_unknown:
            mend = "mend the ids"
            if self.guess is not None:
                mend = "`sidtool check ITEMS EVENTS --fix OUT` writes them as the catalog does"
            raise RefusedError(self.message, hint=f"{mend}; --allow-unknown continues as it is")
        if self.count:
            warnings.warn(self.message, SidtoolWarning, stacklevel=3)


def guess_spelling(
    known_ids: Iterable[str], unknown_ids: Iterable[str], known_name: str, unknown_name: str
) -> str | None:
    """How ids differ, by the first one that `known_spellings` finds: "ids of the catalog look like
    '0034', those of events like '34'"; None if it finds none."""
    spellings = known_spellings(known_ids, unknown_ids)
    if not spellings:
        return None
    unknown_id, known_id = next(iter(spellings.items()))
    # ids that differ in their Unicode form alone look equal unless they are escaped
    spell = ascii if _composed(known_id) == _composed(unknown_id) else repr
    return (
        f"ids of {known_name} look like {spell(known_id)}, those of {unknown_name} like "
        f"{spell(unknown_id)}"
    )


def known_spellings(known_ids: Iterable[str], unknown_ids: Iterable[str]) -> dict[str, str]:
    """Unknown id -> the only known one that is equal without leading zeros, blanks, case, ".0" and
    Unicode form; empty unless most of the unknown ids have one."""
    unknown_ids = list(dict.fromkeys(filter(None, unknown_ids)))
    ids_by_plain_id: dict[str, set[str]] = {}
    for item in known_ids if unknown_ids else ():
        ids_by_plain_id.setdefault(plain_id(item), set()).add(item)
    spellings = {}
    for item in unknown_ids:
        matches = ids_by_plain_id.get(plain_id(item), set())
        if len(matches) == 1:
            (spellings[item],) = matches
    return spellings if len(spellings) >= MIN_ALIKE_SHARE * len(unknown_ids) else {}


def plain_id(item: str) -> str:
    """An id without what programs that read tables change."""
    return NUMBER_ENDING.sub("", _composed(item).strip().casefold()).lstrip("0")


def _composed(item: str) -> str:
    return unicodedata.normalize("NFC", item)
