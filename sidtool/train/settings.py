"""The settings of a training run: sidtool's own, its defaults for TRL's SFTConfig, and the fields
of SFTConfig that sidtool decides. docs/settings.md is generated from this module."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from sidtool.errors import UsageError

Stage = Literal["embeddings", "full", "lora"]
SoftmaxOver = Literal["vocabulary", "sid", "level", "trie"]


def doc(
    text: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> dict[str, Any]:
    """Metadata of a setting: its description, and the range that its value must lie in."""
    return {"doc": text, "limits": {"at least": at_least, "at most": at_most, "below": below}}


@dataclass(frozen=True)
class TrainOptions:
    """Training settings that sidtool adds to SFTConfig.

    Raises UsageError for a value outside its choices or range.
    """

    stage: Stage = field(
        default="full",
        metadata=doc(
            "Weights to train: all (`full`), only the embedding rows of the SID tokens "
            "(`embeddings`), or those rows and low-rank adapters (`lora`).",
        ),
    )
    lora_r: int = field(default=16, metadata=doc("Rank of the LoRA adapters.", at_least=1))
    lora_alpha: float = field(
        default=32.0, metadata=doc("Scale of the LoRA adapters: `lora_alpha / lora_r`.")
    )
    lora_dropout: float = field(
        default=0.0, metadata=doc("Dropout in the LoRA adapters.", at_least=0, below=1)
    )
    lora_targets: str = field(
        default="all-linear",
        metadata=doc(
            "Layers that get adapters: names separated by commas, or `all-linear` "
            "(all linear layers but the output head).",
        ),
    )
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata=doc(
            "Precision in which weights are kept. `auto` is float32, and bfloat16 for frozen weights "
            "that are stored in bfloat16 if a GPU computes in it. Trained weights are float32 unless "
            "`stage=full` sets another `dtype`.",
        ),
    )
    token_budget: int | None = field(
        default=None,
        metadata=doc(
            "Train for about this many tokens, in place of `num_train_epochs`.",
            at_least=1,
        ),
    )
    softmax_over: Literal["auto", SoftmaxOver] = field(
        default="auto",
        metadata=doc(
            "Tokens in the softmax of the loss: the `vocabulary`, all codes (`sid`), the codes of the "
            "target's level (`level`), or the codes that continue the target's prefix to an item "
            "(`trie`). `auto` is `sid` if all examples answer with SIDs, else `vocabulary`.",
        ),
    )
    batching: Literal["auto", "packed", "padded"] = field(
        default="auto",
        metadata=doc(
            "Several examples per sequence without padding (`packed`, needs sdpa attention) or one "
            "(`padded`). `auto` packs if the model keeps packed examples separate.",
        ),
    )
    dropout: float | None = field(
        default=None,
        metadata=doc(
            "Dropout rate for this run, except on attention weights. Default: the model's own.",
            at_least=0,
            below=1,
        ),
    )
    item_dropout: float = field(
        default=0.0,
        metadata=doc("Probability that an item is left out of a history.", at_least=0, at_most=1),
    )
    reverse_prob: float = field(
        default=0.0,
        metadata=doc(
            "Probability that an item sequence is reversed in the first epoch. It falls linearly to 0 "
            "in the last epoch.",
            at_least=0,
            at_most=1,
        ),
    )
    shuffle_span: float = field(
        default=0.0,
        metadata=doc(
            "Distance that items may move in a sequence in the first epoch, as a share of its length. "
            "It falls linearly to 0 in the last epoch.",
            at_least=0,
            at_most=1,
        ),
    )
    optimizer: Literal["adamw", "muon"] = field(
        default="adamw",
        metadata=doc(
            "`muon` uses Muon for the matrices of hidden layers and AdamW for other weights; it needs "
            "`stage=full`. `adamw` leaves the choice to `optim`.",
        ),
    )
    distill_weight: float = field(
        default=0.5,
        metadata=doc(
            "Weight of the cross-entropy with the teachers' mean distribution, against the targets' "
            "weight `1 - distill_weight`. Used only with `--teacher`.",
            at_least=0,
            at_most=1,
        ),
    )
    metric_for_best_model: str = field(
        default="ndcg@10",
        metadata=doc("Validation metric that selects the checkpoint: `hr@K` or `ndcg@K`."),
    )
    eval_users: int = field(
        default=1000, metadata=doc("Validation users to sample; 0 takes all.", at_least=0)
    )
    eval_num_beams: int = field(default=20, metadata=doc("Beam width in validation.", at_least=1))
    eval_exclude_seen: bool = field(
        default=False,
        metadata=doc(
            "Exclude the items of a user's history from the recommendations in validation."
        ),
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata=doc(
            "Stop after this many validations without a better metric. Default: train to the end.",
            at_least=1,
        ),
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_choice(each, getattr(self, each.name))
            _check_limits(each, getattr(self, each.name))
        if self.optimizer == "muon" and self.stage != "full":
            raise UsageError(f"optimizer=muon requires stage=full, not stage={self.stage}")
        name, _, k = self.metric_for_best_model.partition("@")
        if name not in ("hr", "ndcg") or not k.isdecimal() or int(k) < 1:
            raise UsageError(
                f"metric_for_best_model must be hr@K or ndcg@K, not {self.metric_for_best_model!r}"
            )

    @property
    def metric_k(self) -> int:
        """The K of `metric_for_best_model`."""
        return int(self.metric_for_best_model.partition("@")[2])


@dataclass(frozen=True)
class StageSettings:
    """The settings of one training stage."""

    options: TrainOptions
    sft_fields: Mapping[str, Any]
    """fields of SFTConfig by name"""
    examples: Path | None = None
    """training examples of this stage, if not those of the run"""


DEFAULTS: Mapping[str, Any] = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.01,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "seed": 0,
    "logging_steps": 50,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "gradient_checkpointing": False,
    "ddp_find_unused_parameters": False,
    "report_to": "none",
    "disable_tqdm": True,
}
"""sidtool's defaults for SFTConfig where they differ from TRL's, which suit large pretrained
models."""

MACHINE_DEFAULTS = ("bf16", "use_cpu", "dataloader_pin_memory")
"""Fields of SFTConfig whose default depends on the machine."""

DECIDED: Mapping[str, str] = {
    "output_dir": "-o names the output",
    "packing": "--set batching=packed",
    "padding_free": "--set batching=packed",
    "max_length": "make-sft --max-length limits the length of examples",
    "dataset_kwargs": "examples are tokenized by sidtool",
    "remove_unused_columns": "examples are tokenized by sidtool",
    "greater_is_better": "every metric of metric_for_best_model is better when greater",
    "load_best_model_at_end": "the output is always the best checkpoint on the validation set",
    "resume_from_checkpoint": "the same command resumes",
    "save_only_model": "a run resumes only from a checkpoint with its optimizer",
    "train_sampling_strategy": "--set batching=packed avoids padding",
    "assistant_only_loss": "the targets are those that make-sft wrote",
}
"""Fields of SFTConfig that sidtool decides, and what to do instead of setting them."""


def _check_choice(option: Field[Any], value: Any) -> None:
    choices = get_args(option.type)
    if choices and all(isinstance(choice, str) for choice in choices) and value not in choices:
        raise UsageError(f"{option.name} must be one of {', '.join(choices)}, not {value!r}")


def _check_limits(option: Field[Any], value: Any) -> None:
    if value is None:
        return
    limits = option.metadata["limits"]
    too_low = limits["at least"] is not None and value < limits["at least"]
    too_high = limits["at most"] is not None and value > limits["at most"]
    not_below = limits["below"] is not None and value >= limits["below"]
    if too_low or too_high or not_below:
        text = " and ".join(
            f"{words} {limit}" for words, limit in limits.items() if limit is not None
        )
        raise UsageError(f"{option.name} must be {text}, not {value}")
