"""One run of reinforcement with all of its inputs settled: what determines it, and the contract of
the model that it makes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sidtool.base.digests import file_digest
from sidtool.base.output import partial_path
from sidtool.data.split.record import SplitReference
from sidtool.examples.lineage import Lineage
from sidtool.memory.memory import Memory
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.stage_record import ModelReference, RlParams, StageRecord
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.reinforcement.fields_split import FieldsSplit
from sidtool.training.reinforcement.label_reward import LabelReward
from sidtool.training.reinforcement.reward_sum import WeightedReward
from sidtool.training.reinforcement.settings import RL_DEFAULTS, RlOptions
from sidtool.training.training_run import changed_fields, json_digest, json_values


@dataclass(frozen=True)
class RlRun:
    """The settled inputs of one call of `rl`."""

    model_dir: Path
    examples: Path
    out: Path
    valid: Path
    options: RlOptions
    grpo_fields: Mapping[str, Any]
    """fields of GRPOConfig, sidtool's defaults included"""
    rewards: tuple[WeightedReward[Any], ...]
    """of items, of lists with `ipa`; none with `dpo`"""
    lineage: Lineage
    contract: Contract
    bundle: Bundle
    memory: Memory | None
    """of the reward `collaborative`"""
    teacher_dir: Path | None
    """the model of the reward `teacher`"""
    labels: LabelReward | None
    """of the reward `label`"""
    learned_from: tuple[SplitReference, ...]
    """the splits of the bundle's codebook and of the rewards"""
    fields: FieldsSplit | None
    """the split that has the fields of prompts; None if they show none"""
    trust_remote_code: bool

    @property
    def work(self) -> Path:
        """The folder of checkpoints; it exists until the output is complete."""
        return partial_path(self.out)

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.grpo_fields["seed"])

    @property
    def needs_start(self) -> bool:
        """Whether the objective compares the policy with the start."""
        return self.options.algorithm in ("dpo", "ipa") or bool(self.grpo_fields["beta"])

    @cached_property
    def model(self) -> ModelReference:
        """The start."""
        return ModelReference.of(self.model_dir)

    @cached_property
    def teacher(self) -> ModelReference | None:
        """The model of the reward `teacher`."""
        return None if self.teacher_dir is None else ModelReference.of(self.teacher_dir)

    @cached_property
    def reward_model(self) -> ModelReference | None:
        """The model of the reward `label`."""
        return None if self.labels is None else ModelReference.of(self.labels.model_dir)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the run, as JSON values."""
        fingerprint: dict[str, Any] = {
            "model": self.model.weights,
            "bundle": self.bundle.identity.digest,
            "examples": self.lineage.files[self.examples.name],
            "validation users": file_digest(self.valid),
            "options": dataclasses.asdict(self.options),
            "settings": dict(self.grpo_fields),
        }
        if self.memory is not None:
            fingerprint["reward memory"] = self.memory.manifest.digest
        if self.teacher is not None:
            fingerprint["reward teacher"] = dataclasses.asdict(self.teacher)
        if self.reward_model is not None:
            fingerprint["reward model"] = dataclasses.asdict(self.reward_model)
        if self.fields is not None:
            fingerprint["fields"] = self.fields.digest
        return json_values(fingerprint)

    def resumable(self, processes: int) -> dict[str, Any]:
        """Everything that must be equal for the run to resume, as JSON values: each process stores
        the groups that it made."""
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
            grpo_fields=changed_fields(self.grpo_fields, RL_DEFAULTS),
            run=json_digest(self.fingerprint),
            reward_memory=None if self.memory is None else self.memory.manifest.digest,
            reward_teacher=self.teacher,
            reward_model=self.reward_model,
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
            "settings": json_values(self.grpo_fields),
        }

    def inheritance(self) -> str:
        """One line on what the run starts from."""
        stages = " > ".join(record.stage for record in self.contract.stages)
        groups = f"groups of {self.grpo_fields['num_generations']}"
        if self.options.algorithm == "ipa":
            groups = f"pairs of {self.options.candidate_lists} lists"
        return (
            f"{self.options.algorithm} starts from {self.model_dir} ({stages}): bundle "
            f"{self.bundle.manifest.name} {self.bundle.identity.digest[:12]}, {groups} by "
            f"{self.options.rollouts}, reward "
            f"{self.options.reward or 'none'}"
        )
