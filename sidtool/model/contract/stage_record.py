"""The stages that made a model, as its contract records them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint import settings_digests, weight_digests
from sidtool.base.records import JsonRecord
from sidtool.data.split import ListTargets, SplitReference
from sidtool.model.prompt.frames import Templates


@dataclass(frozen=True)
class ModelReference(JsonRecord):
    """A model folder, identified by the digests of its weights, or a memory that taught."""

    path: str
    weights: Mapping[str, str]
    """weight file -> SHA-256 (hex); of a memory, `memory` -> its digest"""
    files: Mapping[str, str] = field(default_factory=dict)
    """other file that determines the model -> SHA-256 (hex); empty in contracts before 0.3"""

    @classmethod
    def of(cls, folder: Path) -> "ModelReference":
        """The reference to a folder on this machine; reads its weight files."""
        return cls(str(folder.resolve()), weight_digests(folder), settings_digests(folder))


@dataclass(frozen=True)
class ExtendParams(JsonRecord):
    """How `extend-model` made the embedding rows of the SID tokens."""

    init: str
    seed: int
    scale: float = 1.0
    """distance of the rows from the mean row, in distances of the existing rows"""


@dataclass(frozen=True)
class AdoptParams(JsonRecord):
    """How `adopt` took over a model that another system trained."""

    preset: str | None
    """the system whose prompt it has; None for a prompt of the user's"""
    codes_without_token: int
    items_without_token: int


@dataclass(frozen=True)
class Selection(JsonRecord):
    """The validation that selected the weights of a trained model."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class Forgetting(JsonRecord):
    """The perplexity on general text that training held out, before and after it."""

    examples: int
    """held-out documents, or pieces of long ones"""
    before: float
    after: float


@dataclass(frozen=True)
class SftRecord(JsonRecord):
    """What `make-sft` was given beside tasks, format and limits of training examples."""

    history_length: int
    columns: tuple[str, ...]
    """columns of the catalog that running text shows"""
    task_budgets: Mapping[str, int]
    """tokens of each task that has a budget"""
    templates: Mapping[str, Templates]
    """the user's templates of a task, in place of its own"""
    weight_clip: float | None
    hidden_items: int
    """items whose text is in no example"""
    general: bool
    """whether general text is mixed in"""


@dataclass(frozen=True)
class TrainParams(JsonRecord):
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
    weights: str | None = None
    """column of the events that weighted the examples, or its exponential (`make-sft --weight`)"""
    best: Selection | None = None
    """None without validation"""
    lists: ListTargets | None = None
    """how lists were made of the training events; None without lists"""
    forgetting: Forgetting | None = None
    """None without general text among the examples"""
    sft: SftRecord | None = None
    """None in contracts before 0.3"""
    learned_from: tuple[SplitReference, ...] = ()
    """further splits that the bundle's codebook and the teachers learned from"""


@dataclass(frozen=True)
class RlParams(JsonRecord):
    """How `rl` made a model."""

    examples: str
    """SHA-256 of the file of training examples"""
    split: SplitReference
    """the split that the examples were made from"""
    start: ModelReference
    """the model that it was trained from"""
    options: Mapping[str, Any]
    """sidtool's own settings"""
    grpo_fields: Mapping[str, Any]
    """fields of GRPOConfig that differ from sidtool's defaults"""
    run: str
    """digest of everything that determines the run"""
    reward_inputs: Mapping[str, Any] = field(default_factory=dict)
    """what identifies the input of each reward, by its name: the digest of a memory, or a
    `ModelReference` as JSON"""
    best: Selection | None = None
    """None if the last checkpoint was kept"""
    learned_from: tuple[SplitReference, ...] = ()
    """further splits that the bundle's codebook and the models and memory of rewards learned
    from"""


@dataclass(frozen=True)
class MergeParams(JsonRecord):
    """The base that `merge` merged adapters into."""

    base: ModelReference


@dataclass(frozen=True)
class RebindParams(JsonRecord):
    """The bundle that `rebind` replaced."""

    previous_bundle: str
    """digest of its identity"""
    verdict: str
    reassigned_share: float
    refresh_share: float | None = None
    """length of the training stage that follows, as a share of the one that `refresh` repeats;
    None if `refresh` trains nothing, and in contracts before 0.3"""


@dataclass(frozen=True)
class RestoreParams(JsonRecord):
    """How `rebind` restored the contract of a model that another program saved."""

    weights_changed: bool
    """whether its weights differ from those that sidtool wrote; what changed them is not known"""


StageParams = (
    AdoptParams | ExtendParams | TrainParams | RlParams | MergeParams | RebindParams | RestoreParams
)

PARAMS: Mapping[str, type[StageParams]] = {
    "adopt": AdoptParams,
    "extend": ExtendParams,
    "embeddings": TrainParams,
    "lora": TrainParams,
    "full": TrainParams,
    "rl": RlParams,
    "merge": MergeParams,
    "rebind": RebindParams,
    "restore": RestoreParams,
}
"""Name of a stage -> what determined it."""


@dataclass(frozen=True)
class StageRecord:
    """One stage: its name and what determined it."""

    stage: str
    """adopt, extend, embeddings, lora, full, rl, merge, rebind or restore"""
    params: StageParams | None
    """None for a stage that only a later version of sidtool can read"""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "StageRecord":
        """Read a stored stage; unknown keys are ignored. Raises TypeError if it is malformed."""
        if not isinstance(value, Mapping) or not isinstance(value.get("stage"), str):
            raise TypeError("a stage has no name")
        kind = PARAMS.get(value["stage"])
        params = None if kind is None else kind.from_json(value.get("params", {}))
        return cls(value["stage"], params)
