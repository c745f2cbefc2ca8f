"""The settings of reinforcement: sidtool's own, its defaults for TRL's GRPOConfig by algorithm, and
the fields of GRPOConfig that sidtool decides. docs/settings.md is generated from this module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, option
from sidtool.evaluation import LIST_METRICS
from sidtool.recommendation.search import SeenOptions
from sidtool.training.settings import COMMON_DECIDED, COMMON_DEFAULTS, parse_metric
from sidtool.training.settings_file import Vocabulary

Algorithm = Literal["grpo", "gspo", "ecpo", "ipa"]


@dataclass(frozen=True)
class ObjectiveOptions:
    """The settings of reinforcement that are flags, too."""

    algorithm: Algorithm = option("grpo")
    """The objective: policy gradients with clipped ratios (`grpo`, `gspo`), with ratios
    bounded at negative advantages too (`ecpo`), or preference of the best list that the model
    writes to the worst (`ipa`, for models of lists; each epoch is a round, whose lists are those
    of the model with which it begins)."""
    reward: str | None = option(None)
    """Sum of rewards with weights, as `exact=1,rank=0.5`; MODULE:FUNCTION is one of your own.
    Lists (`ipa`) have rewards of their own, such as `recall`, `ndcg` and `value`.
    Default: `exact=1,rank=1`, and `ndcg=1` for lists."""


@dataclass(frozen=True)
class RlOptions(ObjectiveOptions, SeenOptions):
    """Settings of reinforcement that sidtool adds to GRPOConfig.

    Raises UsageError for a value outside its choices or range, or that do not fit together."""

    positive_label: str | None = option(None)
    """With the reward `label`, the condition that a label fulfills to count, as `rating>=4`."""
    candidate_lists: int = option(8, minimum=2)
    """Lists that are compared for each history, with `ipa`."""
    sft_weight: float = option(0.1, minimum=0)
    """Weight of the cross-entropy of the targets, beside the objective."""
    metric_for_best_model: str = option("ndcg@10")
    """Validation metric that selects the checkpoint: `hr@K` or `ndcg@K` of the next item; with
    `ipa` also `list_reward` or `list_recall`."""
    eval_users: int = option(2000, minimum=0)
    """Validation users to sample; 0 takes all."""
    eval_num_beams: int = option(20, minimum=1)
    """Beam width in validation, of items and of lists."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.algorithm != "ipa" and self.candidate_lists != RlOptions.candidate_lists:
            raise UsageError(f"candidate_lists has no effect with algorithm={self.algorithm}")
        if self.algorithm != "ipa" or self.metric_for_best_model not in LIST_METRICS:
            parse_metric(self.metric_for_best_model)

    @property
    def reward_or_default(self) -> str:
        """The sum of rewards."""
        return self.reward or ("ndcg=1" if self.algorithm == "ipa" else "exact=1,rank=1")


ALGORITHM_DEFAULTS: Mapping[Algorithm, Mapping[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
    "ecpo": {"loss_type": "grpo"},
    "ipa": {"beta": 0.1, "num_generations": 2, "per_device_train_batch_size": 32},
}
"""Fields of GRPOConfig that make an algorithm, as those of the paper of GSPO (arXiv:2507.18071). A
batch of `ipa` counts the two lists of a pair."""

RL_DEFAULTS: Mapping[str, Any] = COMMON_DEFAULTS | {
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "num_generations": 16,
    "per_device_train_batch_size": 256,
    "beta": 0.04,
    "disable_dropout": True,
    "logging_steps": 10,
}
"""sidtool's defaults for GRPOConfig where they differ from TRL's. A batch counts items: 256 are 16
prompts with groups of 16."""

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "loss_type": ("grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "vespo", "luspo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
}
"""Values of fields of GRPOConfig that TRL checks during the first step only."""

_OF_GROUPS = """
beta disable_dropout generation_batch_size num_generations num_iterations shuffle_dataset
steps_per_generation
"""
_OF_POLICY_GRADIENTS = """
delta entropy_coef entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target epsilon
epsilon_high importance_sampling_level loss_type off_policy_mask_threshold sapo_temperature_neg
sapo_temperature_pos scale_rewards top_entropy_quantile use_adaptive_entropy use_bias_correction_kl
vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos
"""
POLICY_GRADIENT_FIELDS = frozenset(_OF_POLICY_GRADIENTS.split())
"""Fields of GRPOConfig that `ipa`, whose loss is that of preferences, does not read."""
SETTABLE = POLICY_GRADIENT_FIELDS | set(_OF_GROUPS.split())
"""Of the fields that GRPOConfig adds to TrainingArguments, those that have an effect: sidtool makes
the groups, their rewards and their log-probabilities, so all others, also those that a later
release of TRL adds, are refused."""

_ROLLOUTS = "groups are made by sidtool's beam search"

DECIDED: Mapping[str, str] = COMMON_DECIDED | {
    "use_liger_kernel": "log-probabilities are computed by sidtool",
    "num_generations_eval": "--set eval_num_beams is the width of validation",
    "max_completion_length": "a SID has as many codes as the bundle has levels",
    "reward_weights": "--set reward=NAME=WEIGHT,... names the rewards",
    "temperature": _ROLLOUTS,
    "use_vllm": _ROLLOUTS,
    "data_seed": "--set seed=N draws the order of the examples, too",
    "label_smoothing_factor": "groups are learned by their rewards, not by labels",
    "train_sampling_strategy": "--set shuffle_dataset=false keeps the order of the examples",
}
"""Fields of GRPOConfig that sidtool decides, and what to do instead of setting them."""

RL_SETTINGS = Vocabulary("rl", RlOptions, "GRPOConfig", DECIDED, SETTABLE)
