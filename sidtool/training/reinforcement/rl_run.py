"""What a run of reinforcement is asked for, and the run with all of its inputs settled: what
determines it, and the contract of the model that it makes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidtool.data.split import Split
from sidtool.model.contract import Contract, RlParams, StageRecord
from sidtool.recommendation.search import seen_reason
from sidtool.training.reinforcement.settings import RL_DEFAULTS, RlOptions
from sidtool.training.training_run import Run, changed_fields, json_digest, json_values

if TYPE_CHECKING:
    from sidtool.training.reinforcement.rewards.reward import RewardInput, RewardTerm


@dataclass(frozen=True)
class RlRequest:
    """What a run of reinforcement is asked for: the arguments of `rl`, which explains them."""

    model: str | Path
    examples: Path
    out: Path
    options: RlOptions = field(default_factory=RlOptions)
    grpo_fields: Mapping[str, Any] = field(default_factory=dict)
    reward_inputs: Mapping[str, str | Path] = field(default_factory=dict)
    split: str | Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, eq=False)
class FieldsSplit:
    """The split of the training examples, whose fields the prompts of a run show."""

    split: Split
    digest: str
    """SHA-256 (hex) of its training events: a split's own digest leaves fields out"""


@dataclass(frozen=True, kw_only=True)
class RlRun(Run):
    """The settled inputs of one call of `rl`."""

    valid: Path
    options: RlOptions
    rewards: "tuple[RewardTerm, ...]"
    """of items, of lists with `ipa`; none with `dpo`"""
    reward_inputs: "Mapping[str, RewardInput]"
    """of the rewards that have one, by their name"""
    fields: FieldsSplit | None
    """the split that has the fields of prompts; None if they show none"""

    @property
    def needs_start(self) -> bool:
        """Whether the objective compares the policy with the start."""
        return self.options.algorithm in ("dpo", "ipa") or bool(self.config_fields["beta"])

    @cached_property
    def input_records(self) -> dict[str, Any]:
        """What identifies the input of each reward, by its name, as JSON."""
        return {name: reward_input.record() for name, reward_input in self.reward_inputs.items()}

    def other_inputs(self) -> dict[str, Any]:
        """Those of rewards, and the split of fields."""
        inputs = {f"input of {name}": record for name, record in self.input_records.items()}
        if self.fields is not None:
            inputs["fields"] = self.fields.digest
        return inputs

    def resumable(self, processes: int) -> dict[str, Any]:
        """As the parent class: each process stores the groups that it made."""
        if processes == 1:
            return self.fingerprint
        return {**self.fingerprint, "processes": processes}

    def new_contract(self) -> Contract:
        """The contract of the trained model."""
        params = RlParams(
            examples=self.lineage.files[self.examples.name],
            split=self.lineage.split,
            start=self.model,
            options=dataclasses.asdict(self.options),
            grpo_fields=changed_fields(self.config_fields, RL_DEFAULTS),
            run=json_digest(self.fingerprint),
            reward_inputs=self.input_records,
            learned_from=self.learned_from,
        )
        return self.contract.with_stage(
            StageRecord("rl", params), identity=self.bundle.identity, base_folder=None
        )

    def to_json(self) -> dict[str, Any]:
        """What is read and written, and all settings, as JSON values."""
        return {
            "model": str(self.out),
            "start": str(self.model_dir),
            "bundle": self.bundle.identity.digest,
            "examples": str(self.examples),
            "valid": str(self.valid),
            "options": dataclasses.asdict(self.options),
            "settings": json_values(self.config_fields),
        }

    def inheritance(self) -> str:
        """One line on what the run starts from."""
        groups = f"groups of {self.config_fields['num_generations']}"
        if self.options.algorithm == "ipa":
            groups = f"pairs of {self.options.candidate_lists} lists"
        seen = seen_reason(self.options.exclude_seen, self.lineage.split.targets_repeat)
        return (
            f"{self.options.algorithm} starts from {self.start()}, {groups}, "
            f"reward {self.options.reward or 'none'}; {seen}"
        )
