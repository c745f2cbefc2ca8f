"""A model as workers open it: by its location and the options of inference."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from sidtool.memory import Memory, MemoryOptions
from sidtool.model import LoadedModel, ModelOptions, check_model_folder, load_model_folder
from sidtool.registry import located, open_bundle, resolve


@dataclass(frozen=True)
class ModelSource(ModelOptions):
    """Where a model is, and how it is loaded; paths must be those of every worker."""

    model: str
    memory: MemoryOptions = field(default_factory=MemoryOptions)

    def load(self) -> LoadedModel:
        """Load the model. Raises as `load_model_folder` does."""
        return load_model_folder(
            self.model,
            bundle=open_bundle(self.bundle) if self.bundle else None,
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            memory=located(self.memory),
        )

    def record(self) -> dict[str, Any]:
        """What a lineage says of it: the digest of its contract, which has those of its files, that
        of the bundle, and that of another memory than the model's own. Reads no weights; raises as
        `check_model_folder` and `Memory.open` do."""
        bundle = open_bundle(self.bundle) if self.bundle else None
        contract, bundle, _ = check_model_folder(self.model, bundle)
        text = json.dumps(contract.to_json(), sort_keys=True, ensure_ascii=False)
        memory = {
            name: None if value is None else str(value)
            for name, value in asdict(self.memory).items()
        }
        if self.memory.location is not None:
            memory["digest"] = Memory.open(resolve(str(self.memory.location))).digest
        return {
            "model": hashlib.sha256(text.encode()).hexdigest(),
            "bundle": bundle.identity.digest,
            "dtype": self.dtype,
            "memory": memory,
        }
