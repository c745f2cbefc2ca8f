"""What an engine and its requests are given as plain JSON values: how an engine was started, and
what one request asks of the constraint.

The settings of an engine travel in its own configuration, since its processes share nothing
else."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord
from sidtool.recommendation.search import Normalize

KEY = "sidtool"
"""The key of an engine's settings in vLLM's `additional_config`."""
PREFIX = "sid_"
KEYS = ("sid_constraint", "sid_allow", "sid_deny")
"""Keys of a request's extra arguments. Others that begin with `PREFIX` are refused, since an engine
would ignore a misspelt one."""


@dataclass(frozen=True)
class EngineSettings(JsonRecord):
    """What an engine recommends from."""

    model: str
    """a model folder or `hf://ORG/NAME`"""
    bundle: str | None = None
    """path or reference of the bundle; None is the model's copy"""
    normalize: Normalize | None = None
    """what scores are normalized over; None is what the contract says"""

    @classmethod
    def of(cls, vllm_config: Any) -> Self:
        """The settings in vLLM's configuration; the model is the engine's own unless they name one.
        Raises UsageError for an unknown key or value."""
        settings = vllm_config.additional_config or {}
        settings = settings.get(KEY, {}) if isinstance(settings, Mapping) else {}
        if not isinstance(settings, Mapping):
            raise UsageError(f"{KEY!r} in additional_config is {settings!r}, not an object")
        names = [field.name for field in fields(cls)]
        unknown = sorted(map(str, settings.keys() - set(names)))
        if unknown:
            raise UsageError(f"{KEY!r} has no key {unknown[0]!r}, only {', '.join(names)}")
        model = settings.get("model") or str(vllm_config.model_config.model)
        try:
            return cls.from_json({**settings, "model": model})
        except TypeError as error:
            raise UsageError(f"{KEY!r} in additional_config: {error}") from error

    def to_additional_config(self) -> dict[str, Any]:
        """The object that `of` reads."""
        return {KEY: self.to_json()}


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
