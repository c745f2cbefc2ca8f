"""The options that a call may set for its requests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from sidtool.base.errors import DataError, UsageError
from sidtool.base.options import options_of
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.search.list_options import ListOptions
from sidtool.recommendation.serve.serve_options import ServeLimits


@dataclass(frozen=True)
class Choices:
    """Options of requests; those with the same ones can share a batch. The others are the
    service's own."""

    given: tuple[tuple[str, Any], ...] = ()
    """The options in the body, by the names of KINDS, and their values."""
    candidates: tuple[str, ...] | None = None
    """Items that are scored exactly, in place of a beam search."""

    def options(self, defaults: RecommendOptions) -> RecommendOptions:
        """The service's options with those of the call. Raises UsageError for a value out of
        range."""
        chosen = dict(self.given)
        if "list" in chosen:
            chosen |= {"k": chosen["list"], "list": ListOptions()}
        if self.candidates is not None:
            chosen = {"k": max(1, len(self.candidates)), **chosen, "list": None}
        return replace(defaults, **chosen)


KINDS: Mapping[str, Any] = {
    field.name: field.type
    for field, _ in options_of(RecommendOptions)
    if field.name in ("k", "num_beams", "exclude_seen", "explain")
} | {"list": int}
"""The options of the body of a call, and the type of each; `list` is the length of a list, in place
of the k best next items."""
NAMES = (*KINDS, "candidates")


def read_choices(value: Mapping[str, Any], limits: ServeLimits, *, scores: bool) -> Choices:
    """The options in a body; with `scores` it must have candidates, otherwise none.

    Raises DataError for a missing option or one of another type, UsageError for a value beyond the
    limits."""
    chosen = {name: value[name] for name in KINDS if value.get(name) is not None}
    for name, option in chosen.items():
        # type: a bool is an int, too
        if type(option) is not KINDS[name]:
            kind = "a whole number" if KINDS[name] is int else "true or false"
            raise DataError(f"{name!r} is {kind}, not {str(option)[:80]!r}")
    candidates = value.get("candidates")
    if scores:
        candidates = _candidates(candidates)
    elif candidates is not None:
        raise DataError("'candidates' are scored by /v1/score; 'allow' restricts a beam search")
    if "list" in chosen and (scores or "k" in chosen):
        other = "candidates" if scores else "k"
        raise DataError(f"'list' is the length of a list, which has no {other!r}")
    # k and beams of candidates need no tree
    widths = [] if scores else [chosen.get(name, 1) for name in ("k", "num_beams", "list")]
    if max(widths, default=1) > limits.max_beams:
        raise UsageError(
            f"{max(widths)} items or beams are too many, the limit of this service is "
            f"{limits.max_beams}"
        )
    return Choices(tuple(chosen.items()), candidates)


def check_key(key: str) -> None:
    """Raise DataError if a key of a request is nearly the name of an option."""
    if key not in NAMES and (similar := get_close_matches(key.lower(), NAMES, n=1, cutoff=0.75)):
        raise DataError(f"a call has no option {key[:80]!r}, but {similar[0]!r}")


def _candidates(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or not value:
        raise DataError("'candidates' of /v1/score is a list of at least one item id")
    return tuple(value)
