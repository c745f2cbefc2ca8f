"""How an engine was started: which model, bundle and normalization its constraint has.

The settings travel in the engine's own configuration, since its processes share nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord
from sidtool.integrations.vllm.row_constraint import RowConstraint
from sidtool.recommendation.search import Normalize

KEY = "sidtool"
"""The key of the settings in vLLM's `additional_config`."""
FIELDS = ("model", "bundle", "normalize")


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
        unknown = sorted(map(str, settings.keys() - set(FIELDS)))
        if unknown:
            raise UsageError(f"{KEY!r} has no key {unknown[0]!r}, only {', '.join(FIELDS)}")
        model = settings.get("model") or str(vllm_config.model_config.model)
        try:
            return cls.from_json({**settings, "model": model})
        except TypeError as error:
            raise UsageError(f"{KEY!r} in additional_config: {error}") from error

    def constraint(self) -> RowConstraint:
        """Open the model's contract and the bundle. Raises as `RowConstraint.of_model` does."""
        return RowConstraint.of_model(self.model, bundle=self.bundle, normalize=self.normalize)

    def to_additional_config(self) -> dict[str, Any]:
        """The object that `of` reads."""
        return {KEY: self.to_json()}
