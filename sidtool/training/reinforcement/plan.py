"""What a run of reinforcement needs, checked before weights are read or anything is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.extras import require
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.data.split.record import check_split
from sidtool.examples.lineage import Lineage, check_same_bundle, read_lineage, validation_users
from sidtool.examples.tasks import LIST_TASK
from sidtool.memory.memory import Memory, open_verified
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.read import read_contract
from sidtool.model.contract.split_check import check_model_split, further_splits
from sidtool.model.load import check_model_folder
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.reinforcement.arguments import complete_fields
from sidtool.training.reinforcement.examples import history_task
from sidtool.training.reinforcement.fields_split import Prompt, open_fields_split
from sidtool.training.reinforcement.label_reward import POSITIVE, open_label_reward
from sidtool.training.reinforcement.list_rewards import parse_list_rewards
from sidtool.training.reinforcement.reward_sum import WeightedReward
from sidtool.training.reinforcement.rewards import parse_rewards
from sidtool.training.reinforcement.rl_run import RlRun
from sidtool.training.reinforcement.settings import RL_SETTINGS, RlOptions, with_reward
from sidtool.training.settings_file import typed_fields


def plan_rl(
    model_dir: str | Path,
    examples: str | Path,
    out: str | Path,
    *,
    options: RlOptions | None = None,
    grpo_fields: Mapping[str, Any] | None = None,
    valid: str | Path | None = None,
    reward_memory: str | Path | None = None,
    reward_teacher: str | Path | None = None,
    reward_model: str | Path | None = None,
    split: str | Path | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
) -> RlRun:
    """The run of a call of `rl`, with everything checked that needs no weights; writes nothing.
    Raises as `rl`."""
    require("train")
    examples = Path(examples)
    out = Path(out)
    options = with_reward(options or RlOptions())
    fields = complete_fields(options, typed_fields(RL_SETTINGS, grpo_fields or {}))
    is_of_lists = options.algorithm == "ipa"
    rewards = _rewards(options)
    names = {term.name for term in rewards}
    _check_model_inputs(names, reward_memory, reward_teacher)
    _check_label_inputs(names, options, reward_model)
    lineage = read_lineage(examples)
    _check_examples(lineage, examples, names, is_of_lists)
    model_dir = model_folder(model_dir, trust_remote_code=trust_remote_code)
    contract, bundle, _ = check_model_folder(model_dir)
    prompts: dict[str, Prompt] = {
        f"model {model_dir}": _policy_prompt(contract, model_dir, is_of_lists)
    }
    _check_rollouts(options, contract)
    check_same_bundle(lineage, bundle, examples)
    made_from = (str(examples), lineage.split)
    check_model_split(contract, bundle, *made_from, model=f"model {model_dir}")
    teacher_dir = None
    if reward_teacher is not None:
        teacher_dir = model_folder(reward_teacher, trust_remote_code=trust_remote_code)
        name = f"teacher {reward_teacher}"
        teacher, _, _ = check_model_folder(teacher_dir, bundle)
        check_model_split(teacher, bundle, *made_from, model=name)
        _check_teacher(teacher, name)
    labels = None
    if reward_model is not None and options.positive_label is not None:
        labels = open_label_reward(
            reward_model,
            options.positive_label,
            examples,
            lineage,
            bundle,
            trust_remote_code=trust_remote_code,
        )
    if labels is not None:
        prompts[labels.name] = labels.positive.prompt
    fields_split = open_fields_split(split, prompts, examples, lineage)
    valid = validation_users(valid, examples, lineage)
    refuse_existing(out, force, FOLDER)
    memory = None
    if reward_memory is not None:
        memory = _open_memory(Path(reward_memory), examples, lineage, bundle)
    rewarding = [teacher_dir, labels.model_dir if labels else None]
    learned_from = further_splits(
        bundle,
        (read_contract(folder) for folder in rewarding if folder),
        *(() if memory is None else (memory.manifest.split,)),
    )
    return RlRun(
        model_dir=model_dir,
        examples=examples,
        out=out,
        valid=valid,
        options=options,
        grpo_fields=fields,
        rewards=rewards,
        lineage=lineage,
        contract=contract,
        bundle=bundle,
        memory=memory,
        teacher_dir=teacher_dir,
        labels=labels,
        learned_from=learned_from,
        fields=fields_split,
        trust_remote_code=trust_remote_code,
    )


def _rewards(options: RlOptions) -> tuple[WeightedReward[Any], ...]:
    """The rewards of items or of lists, by the algorithm. Raises UsageError as their parsers do."""
    if options.reward is None:
        return ()
    if options.algorithm == "ipa":
        return parse_list_rewards(options.reward)
    return parse_rewards(options.reward)


def _check_examples(
    lineage: Lineage, examples: Path, reward_names: set[str], is_of_lists: bool
) -> None:
    """Raise UsageError if training examples lack what the rewards or the algorithm read: weights,
    histories as SIDs, or lists."""
    if "value" in reward_names and lineage.weights is None:
        raise UsageError(
            f"reward value needs weights, which {examples} has not",
            hint="make-sft --weight COLUMN",
        )
    if not is_of_lists:
        history_task(lineage, examples)
    elif LIST_TASK not in lineage.tasks:
        raise UsageError(
            f"algorithm=ipa needs examples of task {LIST_TASK}, {examples} has "
            f"{', '.join(lineage.tasks)}",
            hint=f"make-sft --task {LIST_TASK}=1",
        )


def _policy_prompt(contract: Contract, model_dir: str | Path, is_of_lists: bool) -> HistoryPrompt:
    """The prompt that a run trains on. Raises CompatibilityError if the model was not trained to
    recommend, or not lists where they are asked for; UsageError for lists of an encoder-decoder."""
    if contract.history_prompt is None:
        raise CompatibilityError(
            f"{model_dir} was not trained to recommend: its contract has no history prompt",
            hint="sidtool train trains it on a task such as sequence",
        )
    if not is_of_lists:
        return contract.history_prompt
    if contract.list_prompt is None:
        raise CompatibilityError(
            f"{model_dir} was not trained on lists: its contract has no list prompt",
            hint="make-sft --task list=1, then sidtool train",
        )
    if contract.kind != "causal":
        raise UsageError(f"algorithm=ipa trains causal models, {model_dir} is {contract.kind}")
    return contract.list_prompt


def _check_rollouts(options: RlOptions, contract: Contract) -> None:
    """Raise UsageError for draws of items from a model whose scores are no distribution over all
    SIDs. Lists are drawn from scores that the search normalizes itself."""
    if options.algorithm == "ipa" or options.rollouts != "gumbel":
        return
    if contract.normalize != "trie":
        raise UsageError(
            "rollouts=gumbel needs a model whose probabilities of all SIDs sum to one, this one is "
            f"normalized over the {contract.normalize}",
            hint="train it with softmax_over=trie, or use rollouts=beam",
        )


def _check_teacher(contract: Contract, name: str) -> None:
    """Raise CompatibilityError if a model recommends from no history, UsageError if it reads more
    than a history."""
    prompt = contract.history_prompt
    if prompt is None:
        raise CompatibilityError(
            f"{name} was not trained to recommend: its contract has no history prompt",
            hint="train it on a task such as next-item",
        )
    if prompt.shows_fields or contract.user_tokens:
        shown = "fields" if prompt.shows_fields else "tokens of users"
        raise UsageError(f"the prompt of {name} shows {shown}, the reward teacher reads items only")


def _open_memory(path: Path, examples: Path, lineage: Lineage, bundle: Bundle) -> Memory:
    """The memory of a reward. Raises CompatibilityError if it is of another bundle, or may have
    learned from events that the examples' split holds out."""
    memory = open_verified(path)
    memory.check_bundle(bundle)
    check_split(f"memory {path}", memory.manifest.split, str(examples), lineage.split)
    return memory


def _check_model_inputs(
    names: set[str], memory: str | Path | None, teacher: str | Path | None
) -> None:
    """Raise UsageError if the rewards of these names lack their memory or teacher, or if one is
    given that none of them uses."""
    inputs = (
        ("collaborative", "--reward-memory", memory),
        ("teacher", "--reward-teacher", teacher),
    )
    for name, flag, path in inputs:
        if name in names and path is None:
            raise UsageError(f"reward {name} requires {flag}")
        if name not in names and path is not None:
            raise UsageError(f"{flag} requires the reward {name}", hint=f"--set reward={name}=1")


def _check_label_inputs(
    names: set[str],
    options: RlOptions,
    model: str | Path | None,
) -> None:
    """Raise UsageError unless the reward `label` has a model and a condition, and no other reward
    has what it alone uses."""
    inputs = {
        "--reward-model": model,
        f"--set {POSITIVE}=CONDITION": options.positive_label,
    }
    for name, value in inputs.items():
        if "label" in names and value is None:
            raise UsageError(f"reward label requires {name}")
        if "label" not in names and value is not None:
            raise UsageError(f"{name} requires the reward label", hint="--reward label=1")
