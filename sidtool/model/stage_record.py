"""The stages that made a model, as its contract records them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sidtool.model.pretrained import Checkpoint, file_digests, weight_digests
from sidtool.splits.record import SplitReference


@dataclass(frozen=True)
class ModelReference:
    """A model folder, identified by the digests of its weights."""

    path: str
    weights: Mapping[str, str]
    """weight file -> SHA-256 (hex)"""
    files: Mapping[str, str] = field(default_factory=dict)
    """other file that determines the model -> SHA-256 (hex); empty in contracts before 0.3"""

    @classmethod
    def of(cls, folder: Path) -> "ModelReference":
        """The reference to a folder on this machine; reads its weight files."""
        checkpoint = Checkpoint(folder)
        return cls(str(folder.resolve()), weight_digests(checkpoint), file_digests(checkpoint))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelReference":
        """Read a stored reference."""
        return cls(value["path"], dict(value["weights"]), dict(value.get("files", {})))


@dataclass(frozen=True)
class ExtendParams:
    """How `extend-model` made the embedding rows of the SID tokens."""

    init: str
    seed: int


@dataclass(frozen=True)
class TrainParams:
    """How `train` made a model."""

    examples: str
    """SHA-256 of the file of training examples"""
    split: SplitReference
    """the split that the examples were made from"""
    task_weights: Mapping[str, float]
    example_format: str
    """plain or chat"""
    options: Mapping[str, Any]
    """sidtool's own settings"""
    sft_fields: Mapping[str, Any]
    """fields of SFTConfig that differ from sidtool's defaults"""
    run: str
    """digest of everything that determines the run"""
    teachers: tuple[ModelReference, ...] = ()
    max_length: int | None = None
    """limit of an example's tokens"""


@dataclass(frozen=True)
class MergeParams:
    """The base that `merge` merged adapters into."""

    base: ModelReference


@dataclass(frozen=True)
class RebindParams:
    """The bundle that `rebind` replaced."""

    previous_bundle: str
    """digest of its identity"""
    verdict: str
    reassigned_share: float


StageParams = ExtendParams | TrainParams | MergeParams | RebindParams

_PARAMS: Mapping[str, type[Any]] = {
    "extend": ExtendParams,
    "embeddings": TrainParams,
    "lora": TrainParams,
    "full": TrainParams,
    "merge": MergeParams,
    "rebind": RebindParams,
}


@dataclass(frozen=True)
class StageRecord:
    """One stage: its name and what determined it."""

    stage: str
    """extend, embeddings, lora, full, merge or rebind"""
    params: StageParams | None
    """None for a stage that only a later version of sidtool can read"""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "StageRecord":
        """Read a stored stage; unknown keys are ignored. Raises KeyError or TypeError."""
        kind = _PARAMS.get(value["stage"])
        if kind is None:
            return cls(value["stage"], None)
        stored = value["params"]
        values = {each.name: stored[each.name] for each in fields(kind) if each.name in stored}
        # nested records
        if kind is TrainParams:
            teachers = values.get("teachers", ())
            values["split"] = SplitReference.from_json(values["split"])
            values["teachers"] = tuple(ModelReference.from_json(teacher) for teacher in teachers)
        if kind is MergeParams:
            values["base"] = ModelReference.from_json(values["base"])
        return cls(value["stage"], kind(**values))
