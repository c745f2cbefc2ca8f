"""A model in memory in place of one that workers load."""

from dataclasses import dataclass
from typing import Any

from sidtool.model.load import LoadedModel


@dataclass(frozen=True)
class LoadedSource:
    """As `ModelSource`, in this process only."""

    loaded: LoadedModel

    def load(self) -> LoadedModel:
        """The model."""
        return self.loaded

    def record(self) -> dict[str, Any]:
        """What a lineage says of it."""
        return {"model": "loaded", "bundle": self.loaded.bundle.identity.digest}
