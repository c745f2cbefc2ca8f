"""A run of `rl`: its inputs, checked before weights are read or anything is written; what
determines it, and the contract of the model that it makes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidtool.base.digests import file_digest
from sidtool.base.errors import CompatibilityError, DataError, UsageError
from sidtool.base.extras import require
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.data.split import MANIFEST, Split, folder_manifest, read_split
from sidtool.examples import Lineage, check_prompt, find_task, read_lineage, validation_users
from sidtool.model import check_model_folder
from sidtool.model.contract import (
    Contract,
    RlParams,
    StageRecord,
    check_model_split,
    further_splits,
    model_folder,
)
from sidtool.model.prompt import HistoryPrompt, LabelPrompt
from sidtool.recommendation.search import seen_reason
from sidtool.training.reinforcement.examples import history_task
from sidtool.training.reinforcement.settings import (
    ALGORITHM_DEFAULTS,
    CHOICES,
    POLICY_GRADIENT_FIELDS,
    RL_DEFAULTS,
    RL_SETTINGS,
    RlOptions,
)
from sidtool.training.run import Run, changed_fields, json_digest, json_values
from sidtool.training.settings_file import typed_fields

if TYPE_CHECKING:
    from sidtool.training.reinforcement.rewards.reward import RewardInput, RewardTerm


@dataclass(frozen=True, kw_only=True)
class RlRun(Run):
    """The checked inputs of one call of `rl`."""

    valid: Path
    options: RlOptions
    rewards: "tuple[RewardTerm, ...]"
    """of items, of lists with `ipa`"""
    reward_inputs: "Mapping[str, RewardInput]"
    """of the rewards that have one, by their name"""
    fields: Split | None
    """the split that has the fields of prompts; None if they show none"""
    fields_digest: str | None
    """SHA-256 (hex) of its training events: a split's own digest leaves fields out"""

    @cached_property
    def input_records(self) -> dict[str, Any]:
        """What identifies the input of each reward, by its name, as JSON."""
        return {name: reward_input.record() for name, reward_input in self.reward_inputs.items()}

    def other_inputs(self) -> dict[str, Any]:
        """Those of rewards, and the split of fields."""
        inputs = {f"input of {name}": record for name, record in self.input_records.items()}
        if self.fields_digest is not None:
            inputs["fields"] = self.fields_digest
        return inputs

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
            f"reward {self.options.reward}; {seen}"
        )


def plan_rl(
    model: str | Path,
    examples: Path,
    out: Path,
    options: RlOptions,
    grpo_fields: Mapping[str, Any],
    *,
    reward_inputs: Mapping[str, str | Path] | None = None,
    split: str | Path | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
) -> RlRun:
    """The run of a call of `rl`, with everything checked that needs no weights; writes nothing.
    Raises as `rl`."""
    require("train")
    from sidtool.training.reinforcement.rewards.reward import RunFacts

    refuse_existing(out, force, FOLDER)
    paths = reward_inputs or {}
    is_of_lists = options.algorithm == "ipa"
    options = replace(options, reward=options.reward_or_default)
    fields = complete_fields(options, typed_fields(RL_SETTINGS, grpo_fields))
    lineage = read_lineage(examples)
    rewards = checked_rewards(options, paths, lineage, examples)
    options = options.with_seen(lineage.split.targets_repeat)
    model_dir = model_folder(model, trust_remote_code=trust_remote_code)
    contract, bundle, _ = check_model_folder(model_dir)
    name = f"model {model_dir}"
    prompts: dict[str, HistoryPrompt | LabelPrompt] = {
        name: _policy_prompt(contract, model_dir, is_of_lists)
    }
    lineage.check_bundle(bundle, examples)
    check_model_split(contract, bundle, str(examples), lineage.split, model=name)
    facts = RunFacts(examples, lineage, bundle, options, trust_remote_code)
    inputs = {
        term.name: term.kind.open_input(str(paths[term.name]), facts)
        for term in rewards
        if term.kind.open_input is not None
    }
    learned_from = further_splits(
        bundle,
        (one.contract for one in inputs.values() if one.contract is not None),
        *(one.split for one in inputs.values() if one.split is not None),
    )
    prompts |= {one.name: one.prompt for one in inputs.values() if one.prompt is not None}
    fields_split = _open_fields_split(split, prompts, lineage)
    return RlRun(
        model_dir=model_dir,
        examples=examples,
        out=out,
        valid=validation_users(examples, lineage),
        options=options,
        config_fields=fields,
        rewards=rewards,
        reward_inputs=inputs,
        lineage=lineage,
        contract=contract,
        bundle=bundle,
        learned_from=learned_from,
        fields=fields_split,
        fields_digest=None if split is None else file_digest(Path(split) / MANIFEST),
        trust_remote_code=trust_remote_code,
    )


def checked_rewards(
    options: RlOptions, inputs: Mapping[str, str | Path], lineage: Lineage, examples: Path
) -> "tuple[RewardTerm, ...]":
    """The rewards of a run. Raises UsageError if one lacks its input, its setting or what it needs
    of the training examples, or if one is given that none uses; DataError without validation
    users."""
    from sidtool.training.reinforcement.rewards.kinds import REWARDS, parse_rewards

    is_of_lists = options.algorithm == "ipa"
    rewards = parse_rewards(options.reward_or_default, lists=is_of_lists)
    names = [term.name for term in rewards]
    with_input = [term.name for term in rewards if term.kind.open_input is not None]
    for name in with_input:
        if name not in inputs:
            raise UsageError(f"reward {name} requires --reward-input {name}=PATH")
    for name in inputs:
        if name not in with_input:
            raise UsageError(
                f"--reward-input {name} requires the reward {name}", hint=f"--reward {name}=1"
            )
    for name, kind in REWARDS.items():
        for setting in kind.settings:
            option = f"--set {setting}=CONDITION"
            is_given = getattr(options, setting) is not None
            if name in names and not is_given:
                raise UsageError(f"reward {name} requires {option}")
            if name not in names and is_given:
                raise UsageError(f"{option} requires the reward {name}", hint=f"--reward {name}=1")
    _check_examples(lineage, examples, rewards, is_of_lists)
    return rewards


def _check_examples(
    lineage: Lineage, examples: Path, rewards: "tuple[RewardTerm, ...]", is_of_lists: bool
) -> None:
    """Raise UsageError if training examples lack weights, histories as SIDs, or lists, DataError if
    they lack validation users, by which the checkpoint is chosen."""
    if not lineage.valid:
        raise DataError(
            f"rl chooses its checkpoint by validation users, and {examples} has none",
            hint="make-sft from a split that has them",
        )
    for term in rewards:
        if term.kind.needs_weights and lineage.weights is None:
            raise UsageError(
                f"reward {term.name} needs weights, which {examples} has not",
                hint="make-sft --weight COLUMN",
            )
    tasks = map(find_task, lineage.tasks)  # those that have examples
    if not is_of_lists:
        history_task(lineage, examples)
    elif not any(task is not None and task.target == "list" for task in tasks):
        raise UsageError(
            f"algorithm=ipa needs examples of task list, {examples} has {', '.join(lineage.tasks)}",
            hint="make-sft --task list=1",
        )


def _policy_prompt(contract: Contract, model_dir: str | Path, is_of_lists: bool) -> HistoryPrompt:
    """The prompt that a run trains on, if the model can write such answers."""
    if contract.history_prompt is None:
        raise CompatibilityError(
            f"{model_dir} was not trained to recommend: its contract has no history prompt",
            hint="sidtool train trains it on a task such as sequence",
        )
    if not is_of_lists:
        task = find_task(contract.history_prompt.task)
        if task is not None and task.feedback:
            raise UsageError(
                f"the prompt of {model_dir} shows the {task.feedback} that the next item is to "
                "have, which training examples do not say",
                hint="a model that was trained on the task sequence or next-item",
            )
        return contract.history_prompt
    if contract.list_prompt is None:
        raise CompatibilityError(
            f"{model_dir} was not trained on lists: its contract has no list prompt",
            hint="make-sft --task list=1, then sidtool train",
        )
    if contract.kind != "causal":
        raise UsageError(f"algorithm=ipa trains causal models, {model_dir} is {contract.kind}")
    return contract.list_prompt


def _open_fields_split(
    path: str | Path | None, prompts: Mapping[str, HistoryPrompt | LabelPrompt], lineage: Lineage
) -> Split | None:
    """The split at `path`, if one of the prompts, by the name of their models, shows fields.

    Raises UsageError unless there is a split exactly if a prompt shows fields, and if the split has
    not all of them; CompatibilityError if the examples were made from another one."""
    with_fields = {name: prompt for name, prompt in prompts.items() if prompt.shows_fields}
    if path is None:
        for name in with_fields:
            raise UsageError(
                f"the prompt of {name} shows fields, which the training examples do not repeat",
                hint="--split SPLIT, the split that make-sft used",
            )
        return None
    if not with_fields:
        raise UsageError(f"--split has no use: no prompt of {' or '.join(prompts)} shows fields")
    folder = Path(path)
    if folder_manifest(folder) is None:
        raise UsageError(f"{path} is no split folder", hint="sidtool split EVENTS -o SPLIT")
    split = read_split(folder)
    lineage.check_split(split)
    for prompt in with_fields.values():
        check_prompt(prompt, split.fields)
    return split


def complete_fields(options: RlOptions, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of GRPOConfig with the defaults of sidtool and of the algorithm.

    Raises UsageError for settings that exclude each other."""
    complete = {**RL_DEFAULTS, **ALGORITHM_DEFAULTS[options.algorithm], **fields}
    for name, choices in CHOICES.items():
        if complete.get(name, choices[0]) not in choices:
            spelled = ", ".join(map(str, choices))
            raise UsageError(f"{name} must be one of {spelled}, not {complete[name]!r}")
    size = complete["num_generations"]
    if options.algorithm == "ipa":
        for name in fields:
            if name in POLICY_GRADIENT_FIELDS:
                raise UsageError(f"{name} has no effect with algorithm=ipa")
        if not complete["beta"]:
            raise UsageError("algorithm=ipa requires a beta greater than 0")
        if size != 2:
            raise UsageError(
                f"num_generations is 2 with algorithm=ipa, the lists of a pair, not {size}",
                hint="--set candidate_lists=N is the number of lists that are compared",
            )
    batch = complete["per_device_train_batch_size"]
    if type(size) is not int or size < 2:
        raise UsageError(f"num_generations must be at least 2, not {size}")
    if batch % size:
        raise UsageError(
            f"per_device_train_batch_size counts items: {batch} is no multiple of the "
            f"{size} items of a group (num_generations)"
        )
    return complete
