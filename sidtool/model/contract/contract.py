"""The contract `sid.json` of a model folder: the bundle that the model was made for, the ids of its
SID tokens, its prompts, and the stages that made it. A copy of the bundle, `sid.zarr`, and a model
card are stored beside it; every stage and every checkpoint writes all three."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.base.records import Digest, JsonRecord, Rule, refuse_newer
from sidtool.data import EventColumns
from sidtool.data.split import SplitReference
from sidtool.memory.mixture import Gate, Reranker, check_mixture
from sidtool.model.contract.stage_record import (
    Forgetting,
    ModelReference,
    RlParams,
    Selection,
    StageParams,
    StageRecord,
    TrainParams,
)
from sidtool.model.network.structure import ModelKind
from sidtool.model.prompt.prompts import HistoryPrompt, LabelPrompt, ListPrompt, TextPrompt
from sidtool.model.vocabulary.tokens import (
    MAX_USER_TOKENS,
    NO_TOKEN,
    FieldTokens,
    FieldValues,
    SidTokens,
    TokenBlock,
    TokenTable,
    UserTokens,
)
from sidtool.tokenizer.bundle import Bundle, Identity, check_names
from sidtool.tokenizer.sid import SidSpace

FORMAT = 3
"""The newest contract format that this version reads; 1 or 2 is written for what older ones can
use."""
CONTRACT = "sid.json"
BUNDLE_COPY = "sid.zarr"
MEMORY_COPY = "memory.zarr"
"""The copy of its memory in a model folder."""

MAX_TOKEN_ID = 1 << 31
TokenId = Annotated[int, Rule("a possible token id", minimum=0, maximum=MAX_TOKEN_ID)]

ModelNormalize = Literal["level", "trie"]


@dataclass(frozen=True)
class MemoryBinding(JsonRecord):
    """What a contract records of a memory that was tuned with the model."""

    digest: str
    weight: float
    power: float
    validation: Mapping[str, float]
    """NDCG@10 of the candidates by model, by memory and by both, and the number of users"""
    gate: Gate | None = None
    """gives each request its own weight, in place of `weight`"""
    new_item_factor: float = 1.0
    """multiplies the raised scores of items without training events"""
    split: SplitReference | None = None
    """the split on whose validation users all of this was chosen; None in contracts before 0.3"""
    reranker: Reranker | None = None
    """orders the first items of the mixture again"""

    def __post_init__(self) -> None:
        check_mixture(self.weight, self.power, self.new_item_factor)
        if self.reranker is not None:
            self.reranker.check()


@dataclass(frozen=True)
class Contract(JsonRecord):
    """What a model stores about its tokenizer and its making."""

    REQUIRED = ("history_prompt", "text_prompt", "normalize", "base_folder")
    OMITTED = (
        *("list_prompt", "label_prompts", "memory", "license", "files", "kind"),
        *("field_tokens", "token_table", "user_tokens"),
    )
    identity: Identity
    """identity of the bundle that the model was made for"""
    space: SidSpace
    token_start: TokenId
    """token id of code 0 of the first level; the lowest id of a SID token with a table"""
    base_model: str
    """the pretrained model as the user named it: a hub id or a path"""
    base_revision: str | None
    """its commit on the hub"""
    base_weights: Mapping[str, str]
    """its weight files -> SHA-256 (hex)"""
    stages: tuple[StageRecord, ...]
    """the stages that made the model, oldest first; at least one"""
    history_prompt: HistoryPrompt | None = None
    """prompt for recommending from a history; None if no stage trained a task with one"""
    list_prompt: ListPrompt | None = None
    """prompt for recommending a list; None if no stage trained such a task"""
    label_prompts: tuple[LabelPrompt, ...] = ()
    """prompts for predicting feedback of an item, of every such task that a stage trained"""
    text_prompt: TextPrompt | None = None
    """prompt for recommending from a text; None if no stage trained a task with one"""
    normalize: ModelNormalize = "level"
    """tokens over which the scores of the model are normalized: all codes of a level, or those that
    continue the prefix to an item"""
    base_files: Mapping[str, str] = field(default_factory=dict)
    """the pretrained model's other files -> SHA-256 (hex); empty in contracts before 0.3"""
    base_folder: ModelReference | None = None
    """the folder that an adapter model changes; None for a whole model"""
    kind: ModelKind = "causal"
    """whether one decoder reads prompt and answer, or an encoder the prompt and a decoder the
    answer"""
    user_tokens: Annotated[int, Rule("a possible number", minimum=0, maximum=MAX_USER_TOKENS)] = 0
    """tokens that stand for users, which follow the SID tokens: a history begins with that of its
    user; 0 without them"""
    field_tokens: FieldValues = field(default_factory=dict)
    """values of fields that have tokens, which follow the tokens of users"""
    token_table: TokenTable | None = None
    """the ids of the SID tokens if they are no block"""
    memory: MemoryBinding | None = None
    """the memory that was tuned with the model; a copy of it is in the folder"""
    license: str | None = None
    """the license of the model, as the user named it; None if it is unknown"""
    files: Mapping[str, Digest] = field(default_factory=dict)
    """file of the folder that determines what the model recommends -> SHA-256 (hex); the root
    documents of the bundle's and the memory's copy stand for the rest of them. Empty in contracts
    before 0.3"""

    @cached_property
    def tokens(self) -> SidTokens:
        """The token ids of the SID vocabulary."""
        return SidTokens(self.space, self.token_start, self.token_table)

    @property
    def users(self) -> UserTokens | None:
        """The tokens that stand for users; None without them."""
        return UserTokens(self.tokens.stop, self.user_tokens) if self.user_tokens else None

    @property
    def fields(self) -> FieldTokens | None:
        """The tokens that stand for values of fields; None without them."""
        start = self.tokens.stop + self.user_tokens
        return FieldTokens.of(start, self.field_tokens) if self.field_tokens else None

    @property
    def vocabularies(self) -> list[SidTokens | TokenBlock]:
        """The blocks of added tokens that there are, in the order of their ids."""
        blocks = (self.tokens, self.users, self.fields)
        return [block for block in blocks if block is not None]

    @property
    def added_ids(self) -> range:
        """The token ids that `extend-model` added: SID tokens, then users, then fields.

        Raises UsageError if the SID tokens of a table have other tokens between them."""
        if not self.tokens.is_contiguous:
            raise UsageError(
                f"the SID tokens have ids {self.token_start} to {self.tokens.stop - 1} with other "
                "tokens between them: their rows cannot be trained alone",
                hint="--stage full trains all weights",
            )
        return range(self.token_start, self.ids_stop)

    @property
    def ids_stop(self) -> int:
        """One past the highest id of the SID tokens and those of users and fields."""
        return self.vocabularies[-1].stop

    @property
    def params(self) -> StageParams | None:
        """What determined the last stage."""
        return self.stages[-1].params

    @property
    def measured_task(self) -> str | None:
        """A task of the last training of a model that does not recommend; None if it does."""
        if self.history_prompt is not None or not isinstance(self.params, TrainParams):
            return None
        return next(iter(self.params.task_weights))

    @property
    def example_format(self) -> str | None:
        """The format of the training examples of the last training stage; None without one."""
        for record in reversed(self.stages):
            if isinstance(record.params, TrainParams):
                return record.params.example_format
        return None

    def training_of(self, task: str) -> TrainParams | None:
        """The last training stage whose examples have a task; None without one."""
        for record in reversed(self.stages):
            params = record.params
            if isinstance(params, TrainParams) and task in params.task_weights:
                return params
        return None

    @property
    def splits(self) -> list[SplitReference]:
        """The splits that the model may have learned from, by its training examples, the codebooks
        of its bundles, teachers, rewards, and the tuning of its memory; oldest first."""
        splits: list[SplitReference] = []
        for record in self.stages:
            if isinstance(record.params, TrainParams | RlParams):
                splits += [*record.params.learned_from, record.params.split]
        if self.memory is not None and (tuned := self.memory.split) is not None:
            # a refresh keeps what was chosen on a split that its own extends
            is_earlier = any(tuned.digest in reference.extends for reference in splits)
            splits.insert(0 if is_earlier else len(splits), tuned)
        return splits

    def event_columns(self, bundle: Bundle) -> EventColumns | None:
        """The columns of the events that the model was trained on last, or that its bundle was
        built from; None if neither records them."""
        references = [bundle.manifest.made_from.split, *self.splits]
        columns = (reference.columns for reference in reversed(references) if reference)
        return next((recorded for recorded in columns if recorded is not None), None)

    @property
    def targets_repeat(self) -> bool | None:
        """`SplitReference.targets_repeat` of the newest split that records it; None if no split
        does."""
        facts = (reference.targets_repeat for reference in reversed(self.splits))
        return next((fact for fact in facts if fact is not None), None)

    def with_stage(self, record: StageRecord, **changes: Any) -> "Contract":
        """The contract after one more stage, with these fields changed. A memory is left out unless
        it is among them: its weight was tuned for the weights before the stage."""
        return replace(self, **{"memory": None, **changes, "stages": (*self.stages, record)})

    def with_best(self, best: Selection | None, forgetting: Forgetting | None = None) -> "Contract":
        """The contract with the validation that selected the weights of its last stage, and what
        this stage, a training, forgot."""
        *earlier, last = self.stages
        assert isinstance(last.params, TrainParams | RlParams)
        params = replace(last.params, best=best)
        if isinstance(params, TrainParams):
            params = replace(params, forgetting=forgetting)
        return replace(self, stages=(*earlier, replace(last, params=params)))

    @property
    def _format(self) -> int:
        """The lowest format whose readers, which ignore the keys that they do not know, read the
        same token ids, make the same prompts and load the same weights."""
        if self.token_table is not None:
            return 3
        has_forms = self.history_prompt is not None and self.history_prompt.frame.has_slots
        has_tokens = self.user_tokens > 0 or len(self.field_tokens) > 0
        return 2 if has_forms or self.kind != "causal" or has_tokens else 1

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored; `token_stop` is written for other readers only."""
        value = {
            "format": self._format,
            **super().to_json(),
            "identity": asdict(self.identity),
            "stages": [asdict(record) for record in self.stages],
            "token_stop": self.tokens.stop,
        }
        if self.memory is not None:
            value["memory"] = asdict(self.memory)
            if self.memory.reranker is None:
                del value["memory"]["reranker"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a stored contract; unknown keys are ignored.

        Raises CompatibilityError for a newer format, IntegrityError for a missing or malformed key.
        """
        refuse_newer(value, FORMAT, "the model's contract")
        try:
            number = value["format"]
            if type(number) is not int or number < 1:
                raise ValueError(f"format {number!r}")
            identity = Identity.from_parts(value["identity"]).to_json()
            contract = super().from_json({**value, "identity": identity})
            contract._check(value.get("token_stop"))
        except (KeyError, TypeError, ValueError, AttributeError, DataError, UsageError) as error:
            raise IntegrityError(f"the model's contract is malformed: {error}") from error
        return contract

    def _check(self, token_stop: Any) -> None:
        """Raise ValueError unless the token ids are possible and there is a stage,
        CompatibilityError if they do not end where they are said to."""
        table = self.token_table
        if table is not None:
            table.check(self.space)
            lowest = min(token_id for token_id in table.ids if token_id != NO_TOKEN)
            if lowest != self.token_start or max(table.ids) > MAX_TOKEN_ID:
                raise ValueError(
                    f"its token table has ids {lowest} to {max(table.ids)}, token_start is "
                    f"{self.token_start}"
                )
            if self.user_tokens or self.field_tokens:
                raise ValueError("it has a token table, and tokens of users or fields")
        if token_stop is not None and token_stop != self.tokens.stop:
            raise CompatibilityError(
                f"SID tokens from id {self.token_start} end before id {self.tokens.stop}, but the "
                f"model's token_stop in its contract says {token_stop!r}"
            )
        FieldTokens.of(0, self.field_tokens)  # raises UsageError
        if not self.stages:
            raise ValueError("it has no stage")
        check_names(self.files)
