"""The settings of a training run: sidtool's own options, and every field of TRL's SFTConfig by
name.

Knows how settings are written (flags, YAML) and typed; knows nothing of models. Loads no heavy
library until a name has to be looked up in SFTConfig."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from sidtool.errors import DataError, UsageError


@dataclass(frozen=True)
class TrainOptions:
    """What sidtool adds to SFTConfig.

    stage: what learns. `full`: all weights; `rows`: the rows of the new tokens, every other weight
    stays as it is;
        `lora`: those rows and low-rank adapters, which become the output (`sidtool merge` makes a
        plain model of it).
    lora_r, lora_alpha, lora_dropout, lora_targets: rank, scale (alpha / r), dropout, and the layers
    that get adapters:
        names separated by commas, or all-linear (all but the head).
    dtype: precision that weights are kept in while training. `auto`: float32; bfloat16 where most
    are frozen (rows,
        lora), the checkpoint has it and the GPU too. What learns is float32 in any case, but for
        stage=full.
    token_budget: train for about so many tokens of rows, in place of num_train_epochs. loss_over:
    the tokens that a target competes with. `vocabulary`: all; `sid`: all code tokens; `level`: the
    codes of
        the target's level, which is what the decoder normalizes over; `trie`: those of them by
        which the prefix goes on to an item, which is then what the decoder normalizes over. `auto`:
        `sid` where every row's answer is a SID (then only code tokens are targets), else
        `vocabulary`.
    batching: `packed` (several rows a line, no padding; needs sdpa attention) or `padded`; `auto`:
    packed if it can be. dropout, attention_dropout: override the model's own rates for this run;
    None leaves them. crop, drop_items, reverse: chances that a history loses its oldest items, that
    any one item of it is left out, and
        that a whole one is turned round (falling to none in the last epoch), drawn anew in every
        epoch (augment.py); rows of other kinds and validation stay as they are.
    shuffle: how far the items of a whole history may wander, as a share of their number (falling to
    none in the last
        epoch).
    code_dropout: the chance that an input code's embedding is zero in a training step. optimizer:
    `adamw` (SFTConfig's `optim` names others), or `muon` for the matrices of hidden layers and
    adamw for the
        rest, with stage=full.
    distill: the weight of what teachers answer (`train --teacher`), against that of the targets.
    ema: decay of an exponential moving average of the weights, which is then what is validated and
    saved. metric: the metric on the validation users that selects the checkpoint: hr@K or ndcg@K.
    valid_users: size of the seeded sample of validation users; 0 takes all. valid_width: beams.
    valid_exclude_seen:
        whether they are given nothing of their histories, as `recommend --exclude-seen`.
    patience: validations without a better metric before training stops; None trains to the end.
    """

    stage: Literal["rows", "full", "lora"] = "full"
    lora_r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: str = "all-linear"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    token_budget: int | None = None
    loss_over: Literal["auto", "vocabulary", "sid", "level", "trie"] = "auto"
    batching: Literal["auto", "packed", "padded"] = "auto"
    dropout: float | None = None
    attention_dropout: float | None = None
    crop: float = 0.0
    drop_items: float = 0.0
    reverse: float = 0.0
    shuffle: float = 0.0
    code_dropout: float = 0.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    distill: float = 0.5
    ema: float | None = None
    metric: str = "ndcg@10"
    valid_users: int = 1000
    valid_width: int = 20
    valid_exclude_seen: bool = False
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("stage", "dtype", "loss_over", "batching", "optimizer"):
            choices = get_args(self.__annotations__[name])
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} is one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        for name in ("crop", "drop_items", "reverse", "shuffle", "code_dropout", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                what = {"shuffle": "share", "distill": "weight"}.get(name, "chance")
                raise UsageError(f"{name} is a {what} between 0 and 1, not {getattr(self, name)}")
        if self.optimizer == "muon" and self.stage != "full":
            raise UsageError(f"optimizer=muon is for stage=full, not {self.stage}")
        for name in ("dropout", "attention_dropout", "lora_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise UsageError(f"{name} is a rate from 0 to below 1, not {getattr(self, name)}")
        for name, least in {
            "lora_r": 1,
            "valid_users": 0,
            "valid_width": 1,
            "patience": 1,
            "token_budget": 1,
        }.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"{name} is at least {least}, not {value}")
        kind, _, k = self.metric.partition("@")
        if kind not in ("hr", "ndcg") or not k.isdecimal() or int(k) < 1:
            raise UsageError(f"metric is hr@K or ndcg@K, not {self.metric!r}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"ema is a decay between 0 and 1, not {self.ema}")

    @property
    def metric_k(self) -> int:
        """The K of the metric."""
        return int(self.metric.partition("@")[2])


@dataclass(frozen=True)
class StageSettings:
    """One stage of a run: its options, its fields of SFTConfig, and its rows where they are not the
    run's."""

    options: TrainOptions
    fields: Mapping[str, Any]
    rows: Path | None = None


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
}
"""Values of SFTConfig that differ from TRL's, which are meant for large pretrained models; all can
be set."""

OWNED: Mapping[str, str] = {
    "output_dir": "-o names the output",
    "packing": "--set batching=packed",
    "padding_free": "--set batching=packed",
    "max_length": "make-sft --max-length decides how long rows are",
    "dataset_kwargs": "rows come tokenized",
    "remove_unused_columns": "rows come tokenized",
    "metric_for_best_model": "--set metric=ndcg@10",
    "greater_is_better": "--set metric=ndcg@10",
    "load_best_model_at_end": "validation always selects the output",
    "resume_from_checkpoint": "the same command resumes",
    "save_only_model": "a checkpoint without its optimizer cannot be gone on from",
    "train_sampling_strategy": "--set batching=packed wastes no padding",
    "assistant_only_loss": "the loss is on what make-sft made a target",
}
"""Fields of SFTConfig that sidtool decides, and what to do instead of setting them."""


def read_settings(
    config: Path | None, pairs: Sequence[str] = ()
) -> tuple[TrainOptions, dict[str, Any]]:
    """Settings from a YAML file and, stronger, `key=value` pairs: sidtool's own options, and fields
    of SFTConfig.

    Raises UsageError for a key that neither knows and for a value of the wrong type, DataError for
    an unreadable file."""
    found = dict(_yaml(config)) if config else {}
    return _read(found | _pairs(pairs))


def read_stages(
    config: Path | None, pairs: Sequence[str] = (), stage: str | None = None
) -> list[StageSettings]:
    """The stages of a run: those that the file lists under `stages`, or one, with `stage` its kind
    if given.

    The file's other settings are every stage's, a stage's own are stronger, and pairs are stronger
    still. A stage may name its `rows`. Raises as `read_settings`."""
    shared = dict(_yaml(config)) if config else {}
    listed = shared.pop("stages", None)
    strong = _pairs(pairs) | ({"stage": stage} if stage else {})
    if listed is None:
        return [StageSettings(*_read(shared | strong))]
    if (
        not isinstance(listed, list)
        or not listed
        or not all(isinstance(one, dict) for one in listed)
    ):
        raise UsageError(
            f"stages is a list of mappings like {{stage: rows, learning_rate: 0.01}}, not "
            f"{listed!r}"
        )
    if "stage" in strong or "stage" in shared:
        raise UsageError(
            "the configuration lists its stages, so no one stage may be set beside them"
        )
    found = []
    for one in listed:
        rows = one.get("rows")
        own = {key: value for key, value in one.items() if key != "rows"}
        found.append(StageSettings(*_read(shared | own | strong), Path(rows) if rows else None))
    return found


def _pairs(pairs: Sequence[str]) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, not {pair!r}")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {key}: {value!r} is no YAML value") from error
    return found


def _read(found: Mapping[str, Any]) -> tuple[TrainOptions, dict[str, Any]]:
    own = {field.name: _name(field.type) for field in dataclasses.fields(TrainOptions)}
    options = {key: _typed(key, value, own[key]) for key, value in found.items() if key in own}
    fields = {key: value for key, value in found.items() if key not in own}
    return TrainOptions(**options), typed_fields(fields)


def typed_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of SFTConfig with numbers as numbers; bf16 may be "auto" as well.

    Raises UsageError for unknown keys and those that sidtool owns.
    """
    if not fields:
        return {}
    from trl import SFTConfig

    known = {field.name: _name(field.type) for field in dataclasses.fields(SFTConfig) if field.init}
    for key in fields:
        if key in OWNED:
            raise UsageError(f"{key} is not to be set here", hint=OWNED[key])
        if key not in known:
            near = get_close_matches(
                key, [*known, *(f.name for f in dataclasses.fields(TrainOptions))], n=1
            )
            raise UsageError(
                f"no setting {key!r}", hint=f"did you mean {near[0]}?" if near else None
            )
    return {
        key: value if (key, value) == ("bf16", "auto") else _typed(key, value, known[key])
        for key, value in fields.items()
    }


def _typed(key: str, value: Any, annotation: str) -> Any:
    """YAML reads 2e-3 as text, and 1 where a float is meant as an integer; a text that is no number
    stays text."""
    if isinstance(value, str) and "float" in annotation:
        try:
            return float(value)
        except ValueError as error:
            if "str" not in annotation and "Literal" not in annotation:
                raise UsageError(f"{key} is a number, not {value!r}") from error
    meant = annotation.removesuffix(" | None")
    allowed = {"int": (int,), "bool": (bool,), "str": (str,), "float": (int, float)}.get(meant)
    if allowed and type(value) not in (*allowed, *((type(None),) if meant != annotation else ())):
        raise UsageError(f"{key} is {meant}, not {value!r}")
    return float(value) if meant == "float" and type(value) is int else value


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read configuration {path}: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"configuration {path} is no mapping of settings")
    return value
