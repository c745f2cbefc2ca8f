"""The settings of a training run: sidtool's own, its defaults for TRL's SFTConfig, and the fields
of SFTConfig that sidtool decides. docs/settings.md is generated from this module."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, option

Stage = Literal["embeddings", "full", "lora"]
SoftmaxOver = Literal["vocabulary", "sid", "level", "trie"]
"""The tokens that a target of the loss competes with."""


def parse_metric(text: str) -> tuple[str, int]:
    """ "ndcg@10" -> ("ndcg", 10). Raises UsageError for anything but hr@K and ndcg@K, where K is
    spelled as in the names of metrics."""
    match = re.fullmatch("(hr|ndcg)@([1-9][0-9]{0,8})", text)
    if match is None:
        raise UsageError(f"metric_for_best_model must be hr@K or ndcg@K, not {text!r:.80}")
    return match[1], int(match[2])


@dataclass(frozen=True)
class StageOptions:
    """The settings of a training that are flags of `train`, too."""

    stage: Stage = option("full")
    """Weights to train: all (`full`), only the embedding rows of the SID tokens (`embeddings`), or
    those rows and low-rank adapters (`lora`)."""


@dataclass(frozen=True)
class TrainOptions(StageOptions):
    """Training settings that sidtool adds to SFTConfig.

    Raises UsageError for a value outside its choices or range."""

    lora_r: int = option(16, minimum=1)
    """Rank of the LoRA adapters."""
    lora_alpha: float = option(32.0)
    """Scale of the LoRA adapters: `lora_alpha / lora_r`."""
    token_budget: int | None = option(None, minimum=1)
    """Train for about this many tokens, in place of `num_train_epochs`."""
    softmax_over: Literal["auto", SoftmaxOver] = option("auto")
    """Tokens in the softmax of the loss: the `vocabulary`, all codes (`sid`), the codes of the
    target's level (`level`), or the codes that continue the target's prefix to an item (`trie`).
    `auto` is `trie` if all examples answer with SIDs, else `vocabulary`."""
    batching: Literal["auto", "packed", "padded"] = option("auto")
    """Several examples per sequence without padding (`packed`, needs sdpa attention) or one
    (`padded`). `auto` packs if the model keeps packed examples separate."""
    dropout: float | None = option(None, minimum=0, below=1)
    """Dropout rate for this run, except on attention weights. Default: the model's own."""
    item_dropout: float = option(0.0, minimum=0, maximum=1)
    """Probability that an item is left out of a history."""
    reverse_prob: float = option(0.0, minimum=0, maximum=1)
    """Probability that an item sequence is reversed in the first epoch. It falls linearly to 0 in
    the last epoch; a training of one epoch keeps it."""
    shuffle_span: float = option(0.0, minimum=0, maximum=1)
    """Distance that items may move in a sequence in the first epoch, as a share of its length. It
    falls linearly to 0 in the last epoch; a training of one epoch keeps it."""
    sliding_windows: Literal["auto", "none", "drawn", "all"] = option("auto")
    """How an item sequence becomes examples. `none` is one example with every item a target, which
    causal models can learn. Otherwise an example is a prefix whose last item is the target: one per
    sequence, `drawn` anew in each epoch, or `all` of them in each epoch, as in TIGER. `auto` is
    `none` for a causal model and `drawn` for an encoder-decoder."""
    optimizer: Literal["adamw", "muon"] = option("adamw")
    """`muon` uses Muon for the matrices of hidden layers and AdamW for other weights; it needs
    `stage=full`. `adamw` leaves the choice to `optim`."""
    distill_weight: float = option(0.5, minimum=0, maximum=1)
    """Weight of the cross-entropy with the teachers' mean distribution, against the targets' weight
    `1 - distill_weight`. Used only with `--teacher`."""
    metric_for_best_model: str = option("ndcg@10")
    """Validation metric that selects the checkpoint: `hr@K` or `ndcg@K`."""
    eval_users: int = option(1000, minimum=0)
    """Validation users to sample; 0 takes all."""
    eval_num_beams: int = option(20, minimum=1)
    """Beam width in validation."""
    eval_exclude_seen: bool | None = option(None)
    """Exclude the items of a user's history from the recommendations in validation. Default: on
    unless more than 1 of 100 held-out targets of the split are items of their own history."""
    early_stopping_patience: int | None = option(None, minimum=1)
    """Stop after this many validations without a better metric. Default: train to the end."""
    stop_step: int | None = option(None, minimum=1)
    """Stop at this step, with a validation, as `--max-minutes` does. Default: train to the end."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.optimizer == "muon" and self.stage != "full":
            raise UsageError(f"optimizer=muon requires stage=full, not stage={self.stage}")
        parse_metric(self.metric_for_best_model)


@dataclass(frozen=True)
class StageSettings:
    """The settings of one training stage."""

    options: TrainOptions
    sft_fields: Mapping[str, Any]
    """fields of SFTConfig by name"""
    examples: str | Path | None = option(None)
    """training examples of this stage, if not those of the run"""


COMMON_DEFAULTS: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "seed": 0,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "gradient_checkpointing": False,
    "ddp_find_unused_parameters": False,
    "report_to": "none",
    "disable_tqdm": True,
}
"""sidtool's defaults for every trainer of TRL."""

DEFAULTS: Mapping[str, Any] = COMMON_DEFAULTS | {
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "logging_steps": 50,
}
"""sidtool's defaults for SFTConfig where they differ from TRL's, which suit large pretrained
models."""

MACHINE_DEFAULTS = ("bf16", "use_cpu", "dataloader_pin_memory")
"""Fields of SFTConfig whose default depends on the machine."""

SHARDING = ("fsdp", "fsdp_config")
"""Fields of SFTConfig that divide weights among processes."""

COMMON_DECIDED: dict[str, str] = {
    "output_dir": "-o names the output",
    "greater_is_better": "every metric of metric_for_best_model is better when greater",
    "load_best_model_at_end": "the output is always the best checkpoint on the validation set",
    "resume_from_checkpoint": "the same command resumes",
    "save_only_model": "a run resumes only from a checkpoint with its optimizer",
    "logging_nan_inf_filter": "a loss that is no number stops the training",
    "restore_callback_states_from_checkpoint": "a resumed run stops early as a whole one would",
    "per_device_eval_batch_size": "validation runs in batches that fit",
    "trust_remote_code": "--trust-remote-code",
    "remove_unused_columns": "examples are prepared by sidtool",
    "push_to_hub": "sidtool push publishes a trained model; training has no network",
    "hub_token": "sidtool push reads HF_TOKEN; a model records its settings",
}
"""Fields of every trainer that sidtool decides, and what to do instead of setting them."""

DECIDED: Mapping[str, str] = COMMON_DECIDED | {
    "packing": "--set batching=packed",
    "padding_free": "--set batching=packed",
    "max_length": "make-sft --max-length limits the length of examples",
    "dataset_kwargs": "examples are tokenized by sidtool",
    "train_sampling_strategy": "--set batching=packed avoids padding",
    "loss_type": "--set softmax_over chooses the tokens of the loss",
    "assistant_only_loss": "the targets are those that make-sft wrote",
}
"""Fields of SFTConfig that sidtool decides, and what to do instead of setting them."""

SETTABLE = frozenset({"activation_offloading", "chat_template_path", "eos_token"})
"""Of the fields that SFTConfig adds to TrainingArguments, those that have an effect."""
