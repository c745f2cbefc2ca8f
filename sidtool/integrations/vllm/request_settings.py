"""What one request to an engine asks of the constraint, as an engine passes it: plain JSON values
by key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sidtool.base.errors import UsageError

PREFIX = "sid_"
KEYS = ("sid_constraint", "sid_allow", "sid_deny")
"""Keys of a request's extra arguments. Others that begin with `PREFIX` are refused, since an engine
would ignore a misspelt one."""


@dataclass(frozen=True)
class RequestSettings:
    """How the constraint treats one request."""

    constrained: bool = True
    """False leaves the request as it is: text, not SIDs."""
    allow: tuple[str, ...] | None = None
    """Ids of the only items that may be written; None allows all."""
    deny: tuple[str, ...] = ()
    """Ids of items that are not written."""

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self:
        """The settings among the extra arguments of a request. Raises UsageError for an unknown key
        and for a value of another type."""
        extra_args = extra_args or {}
        unknown = sorted(key for key in extra_args if key.startswith(PREFIX) and key not in KEYS)
        if unknown:
            raise UsageError(f"there is no extra argument {unknown[0]!r}, only {', '.join(KEYS)}")
        constrained = extra_args.get("sid_constraint", True)
        if constrained not in (True, False, 0, 1):
            raise UsageError(f"sid_constraint is true or false, not {constrained!r}")
        deny = _ids(extra_args, "sid_deny")
        return cls(bool(constrained), _ids(extra_args, "sid_allow"), deny or ())

    def to_extra_args(self) -> dict[str, Any]:
        """The extra arguments that `of` reads; those with default values are left out."""
        extra_args: dict[str, Any] = {}
        if not self.constrained:
            extra_args["sid_constraint"] = False
        if self.allow is not None:
            extra_args["sid_allow"] = list(self.allow)
        if self.deny:
            extra_args["sid_deny"] = list(self.deny)
        return extra_args


def _ids(extra_args: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    ids = extra_args.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list | tuple) or not all(isinstance(item, str) for item in ids):
        raise UsageError(f"{key} is a list of item ids, not {str(ids)[:80]!r}")
    return tuple(ids)
