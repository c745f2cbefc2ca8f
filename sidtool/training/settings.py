"""The settings of a training run: sidtool's own, its defaults for TRL's SFTConfig, and the fields
of SFTConfig that sidtool decides. docs/settings.md is generated from this module."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.model.contract.memory_binding import check_weight
from sidtool.model.memory import DEFAULT_POWER, DEFAULT_WEIGHT
from sidtool.training.setting_checks import check_choices, check_minima, parse_metric

Stage = Literal["embeddings", "full", "lora"]
SoftmaxOver = Literal["vocabulary", "sid", "level", "trie"]
"""The tokens that a target of the loss competes with."""


_MINIMUM: Mapping[str, float] = {
    "lora_r": 1,
    "token_budget": 1,
    "eval_users": 0,
    "eval_num_beams": 1,
    "early_stopping_patience": 1,
}
_PROBABILITIES = ("item_dropout", "reverse_prob", "shuffle_span", "distill_weight")
_DROPOUT_RATES = ("dropout", "lora_dropout")


@dataclass(frozen=True)
class TrainOptions:
    """Training settings that sidtool adds to SFTConfig.

    Raises UsageError for a value outside its choices or range."""

    stage: Stage = "full"
    """Weights to train: all (`full`), only the embedding rows of the SID tokens (`embeddings`), or
    those rows and low-rank adapters (`lora`)."""
    lora_r: int = 16
    """Rank of the LoRA adapters."""
    lora_alpha: float = 32.0
    """Scale of the LoRA adapters: `lora_alpha / lora_r`."""
    lora_dropout: float = 0.0
    """Dropout in the LoRA adapters."""
    lora_targets: str = "all-linear"
    """Layers that get adapters: names separated by commas, or `all-linear` (all linear layers but
    the output head)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which weights are kept. `auto` is float32, and bfloat16 for frozen weights that
    are stored in bfloat16 if a GPU computes in it. Trained weights are float32 unless `stage=full`
    sets another `dtype`."""
    token_budget: int | None = None
    """Train for about this many tokens, in place of `num_train_epochs`."""
    softmax_over: Literal["auto", SoftmaxOver] = "auto"
    """Tokens in the softmax of the loss: the `vocabulary`, all codes (`sid`), the codes of the
    target's level (`level`), or the codes that continue the target's prefix to an item (`trie`).
    `auto` is `sid` if all examples answer with SIDs, else `vocabulary`."""
    batching: Literal["auto", "packed", "padded"] = "auto"
    """Several examples per sequence without padding (`packed`, needs sdpa attention) or one
    (`padded`). `auto` packs if the model keeps packed examples separate."""
    dropout: float | None = None
    """Dropout rate for this run, except on attention weights. Default: the model's own."""
    item_dropout: float = 0.0
    """Probability that an item is left out of a history."""
    reverse_prob: float = 0.0
    """Probability that an item sequence is reversed in the first epoch. It falls linearly to 0 in
    the last epoch."""
    shuffle_span: float = 0.0
    """Distance that items may move in a sequence in the first epoch, as a share of its length. It
    falls linearly to 0 in the last epoch."""
    sliding_windows: Literal["auto", "none", "drawn", "all"] = "auto"
    """How an item sequence becomes examples. `none` is one example with every item a target, which
    causal models can learn. Otherwise an example is a prefix whose last item is the target: one per
    sequence, `drawn` anew in each epoch, or `all` of them in each epoch, as in TIGER. `auto` is
    `none` for a causal model and `drawn` for an encoder-decoder."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` uses Muon for the matrices of hidden layers and AdamW for other weights; it needs
    `stage=full`. `adamw` leaves the choice to `optim`."""
    distill_weight: float = 0.5
    """Weight of the cross-entropy with the teachers' mean distribution, against the targets' weight
    `1 - distill_weight`. Used only with `--teacher`."""
    memory_weight: float = DEFAULT_WEIGHT
    """Weight of the memory in the mixture whose likelihood is maximized, below 1; 0 leaves the
    memory out. Used only with `--memory`."""
    memory_power: float = DEFAULT_POWER
    """Power of the memory's scores in that mixture. Used only with `--memory`."""
    metric_for_best_model: str = "ndcg@10"
    """Validation metric that selects the checkpoint: `hr@K` or `ndcg@K`."""
    eval_users: int = 1000
    """Validation users to sample; 0 takes all."""
    eval_num_beams: int = 20
    """Beam width in validation."""
    eval_exclude_seen: bool = False
    """Exclude the items of a user's history from the recommendations in validation."""
    early_stopping_patience: int | None = None
    """Stop after this many validations without a better metric. Default: train to the end."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_minima(self, _MINIMUM)
        for name in _PROBABILITIES:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"{name} must be between 0 and 1, not {value}")
        for name in _DROPOUT_RATES:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"{name} must be at least 0 and below 1, not {value}")
        check_weight(self.memory_weight, self.memory_power)
        if self.memory_weight == 1:
            raise UsageError(
                "memory_weight must be below 1: the model would have no part in the loss"
            )
        if self.optimizer == "muon" and self.stage != "full":
            raise UsageError(f"optimizer=muon requires stage=full, not stage={self.stage}")
        parse_metric(self.metric_for_best_model)

    @property
    def metric_k(self) -> int:
        """The K of `metric_for_best_model`."""
        return parse_metric(self.metric_for_best_model)[1]


@dataclass(frozen=True)
class StageSettings:
    """The settings of one training stage."""

    options: TrainOptions
    sft_fields: Mapping[str, Any]
    """fields of SFTConfig by name"""
    examples: Path | None = None
    """training examples of this stage, if not those of the run"""
    memory: str | None = None
    """memory in the loss, or a reference to one, if the run is given none"""
    split: Path | None = None
    """the split of the memory, likewise"""


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
