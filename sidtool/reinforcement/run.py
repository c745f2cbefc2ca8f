"""Trains a trained model further by rewards of its own recommendations, resumably.

Everything that can be refused without reading weights is checked first. Checkpoints are in
OUT.partial until the output is complete. Under `torchrun` or `accelerate launch` every process runs
this code, and the first one alone writes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidtool.checkpoint.hub import offline
from sidtool.contract.contract import Contract, read_contract
from sidtool.contract.locate import model_folder
from sidtool.contract.split_check import check_model_split
from sidtool.errors import CompatibilityError, DataError, RefusedError, UsageError
from sidtool.extras import require
from sidtool.list_alignment.list_rewards import parse_list_rewards
from sidtool.memory.memory import Memory, open_verified
from sidtool.model.load import check_model_folder
from sidtool.output import refuse_existing
from sidtool.output_name import FOLDER
from sidtool.policy.examples import history_task
from sidtool.policy.reward_sum import WeightedReward
from sidtool.prompt.prompts import HistoryPrompt
from sidtool.recommendation.query import Progress
from sidtool.reinforcement.arguments import complete_fields, grpo_config
from sidtool.reinforcement.label_reward import POSITIVE, open_label_reward
from sidtool.reinforcement.rewards import parse_rewards
from sidtool.reinforcement.rl_run import RlRun
from sidtool.reinforcement.settings import SETTINGS, RlOptions
from sidtool.sft.lineage import Lineage, check_same_bundle, read_lineage, side_files
from sidtool.sft.tasks import LIST_TASK
from sidtool.splits.record import check_split
from sidtool.trainer.machine import peak_cuda_gib, peak_rss_gib, quiet
from sidtool.training.execution import Finished, train_and_publish
from sidtool.training.settings_file import typed_fields
from sidtool.training.training_run import Log


@dataclass(frozen=True)
class RlSummary:
    """What a call of `rl` did."""

    algorithm: str
    model: str
    """the output folder"""
    steps: int
    loss: float | None
    """mean training loss of the whole run, as the counts below, also if it was resumed"""
    metric: str
    """the validation metric"""
    start: float | None
    """its value for the start; None if no step was left"""
    best: float | None
    """its best value; None if no checkpoint was validated"""
    tokens: int
    """tokens of prompts"""
    groups: int
    seconds: float
    peak_rss_gib: float | None
    peak_cuda_gib: float | None
    trained_parameters: int
    resumed_from: str | None
    """name of the checkpoint"""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def rl(
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
    allow_worse_slices: bool = False,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
) -> RlSummary:
    """Train a model further on the items that it recommends for the histories in a file of
    training examples, and write it to the folder `out`.

    The output is the checkpoint that recommends best to the users in `valid` (by default those
    beside the examples), among those that are worse than the start on no slice of targets by
    training frequency; with `allow_worse_slices` among all. `grpo_fields` are fields of TRL's
    GRPOConfig by name. `reward_memory` is the memory of the reward `collaborative`,
    `reward_teacher` the model of the reward `teacher`. `reward_model` is a model that predicts
    labels, of the reward `label`; if its prompt shows fields, `split` is the folder of the split
    that the examples were made from, which has them. The memory of the start itself is left out:
    its weight was tuned for the weights before.

    A run that was killed resumes from its last checkpoint when called again with the same
    arguments, and ends with the same weights. `progress` receives (done, total) steps, `log` each
    log line and validation, `notify` one line on what the run starts from.

    Raises UsageError if the output exists, settings do not fit together or an unfinished run had
    different ones; CompatibilityError if model, bundle, examples and reward models do not belong
    together or come from different splits; DataError if examples are malformed or a reward
    function fails; RefusedError if every checkpoint is worse than the start on a slice;
    SidtoolError if the training diverges.

    Examples:
        >>> fields = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8}
        >>> summary = sidtool.rl(
        ...     "tuned", "train.jsonl", "reinforced", grpo_fields=fields, allow_worse_slices=True
        ... )
        >>> summary.algorithm, summary.steps
        ('grpo', 1)
    """
    run = plan_rl(
        model_dir,
        examples,
        out,
        options=options,
        grpo_fields=grpo_fields,
        valid=valid,
        reward_memory=reward_memory,
        reward_teacher=reward_teacher,
        reward_model=reward_model,
        split=split,
        force=force,
        trust_remote_code=trust_remote_code,
    )
    if notify:
        notify(run.inheritance())
    with quiet(), offline():
        from sidtool.reinforcement.setup import build_trainer

        arguments = grpo_config(run)

        def build() -> Any:
            return build_trainer(run, arguments, allow_worse_slices, progress, log)

        finished = train_and_publish(run, arguments, build, force=force, check=_check_selection)
    return _summary(run, finished)


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
    options = options or RlOptions()
    fields = complete_fields(options, typed_fields(SETTINGS, grpo_fields or {}))
    is_of_lists = options.algorithm == "ipa"
    rewards = _rewards(options)
    names = {term.name for term in rewards}
    memory_path, teacher = _reward_inputs(names, reward_memory, reward_teacher)
    _check_label_inputs(names, options, reward_model, split)
    lineage = read_lineage(examples)
    if lineage.weights is None and "value" in names:
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
    model_dir = model_folder(model_dir, trust_remote_code=trust_remote_code)
    if teacher is not None:
        teacher = model_folder(teacher, trust_remote_code=trust_remote_code)
    contract, bundle, _ = check_model_folder(model_dir)
    _check_prompts(contract, model_dir, is_of_lists)
    if options.rollouts == "gumbel" and contract.normalize != "trie" and not is_of_lists:
        raise UsageError(
            "rollouts=gumbel needs a model whose probabilities of all SIDs sum to one, this one is "
            f"normalized over the {contract.normalize}",
            hint="train it with softmax_over=trie, or use rollouts=beam",
        )
    check_same_bundle(lineage, bundle, examples)
    for folder in (model_dir, *([teacher] if teacher else [])):
        name = f"model {folder}"
        check_model_split(read_contract(folder), bundle, str(examples), lineage.split, model=name)
    labels = None
    if reward_model is not None and options.positive_label is not None:
        labels = open_label_reward(
            reward_model,
            options.positive_label,
            split,
            examples,
            lineage,
            bundle,
            trust_remote_code=trust_remote_code,
        )
    valid = Path(valid) if valid is not None else side_files(examples)["valid"]
    if not valid.is_file():
        raise DataError(f"there is no file {valid} of validation users", hint="--valid FILE")
    refuse_existing(out, force, FOLDER)
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
        memory=None if memory_path is None else _open_memory(memory_path, examples, lineage),
        teacher_dir=teacher,
        labels=labels,
        trust_remote_code=trust_remote_code,
    )


def _rewards(options: RlOptions) -> tuple[WeightedReward[Any], ...]:
    """The rewards of items or of lists, by the algorithm. Raises UsageError as their parsers do."""
    if options.algorithm == "dpo":
        return ()
    if options.algorithm == "ipa":
        return parse_list_rewards(options.reward)
    return parse_rewards(options.reward)


def _check_prompts(contract: Contract, model_dir: str | Path, is_of_lists: bool) -> None:
    """Raise CompatibilityError if a model was not trained to recommend, or not lists where they are
    asked for; UsageError if its prompts show fields, or for lists of an encoder-decoder."""
    if contract.history_prompt is None:
        raise CompatibilityError(
            f"{model_dir} was not trained to recommend: its contract has no history prompt",
            hint="sidtool train trains it on a task such as sequence",
        )
    prompts: list[HistoryPrompt] = [contract.history_prompt]
    if is_of_lists:
        if contract.list_prompt is None:
            raise CompatibilityError(
                f"{model_dir} was not trained on lists: its contract has no list prompt",
                hint="make-sft --task list=1, then sidtool train",
            )
        if contract.kind != "causal":
            raise UsageError(f"algorithm=ipa trains causal models, {model_dir} is {contract.kind}")
        prompts.append(contract.list_prompt)
    if any(prompt.shows_fields for prompt in prompts):
        raise UsageError(
            f"the prompt of {model_dir} shows fields, which training examples for reinforcement "
            "have not",
            hint="reinforce a model that was trained without --template",
        )


def _open_memory(path: Path, examples: Path, lineage: Lineage) -> Memory:
    """The memory of a reward. Raises CompatibilityError if it may have learned from events that the
    examples' split holds out."""
    memory = open_verified(path)
    check_split(f"memory {path}", memory.manifest.split, str(examples), lineage.split)
    return memory


def _reward_inputs(
    names: set[str], memory: str | Path | None, teacher: str | Path | None
) -> tuple[Path | None, str | Path | None]:
    """The memory and the model of the rewards of these names. Raises UsageError if one is missing
    or not used."""
    inputs = (
        ("collaborative", "--reward-memory", memory),
        ("teacher", "--reward-teacher", teacher),
    )
    for name, flag, path in inputs:
        if name in names and path is None:
            raise UsageError(f"reward {name} requires {flag}")
        if name not in names and path is not None:
            raise UsageError(f"{flag} requires the reward {name}", hint=f"--set reward={name}=1")
    return None if memory is None else Path(memory), teacher


def _check_label_inputs(
    names: set[str],
    options: RlOptions,
    model: str | Path | None,
    split: str | Path | None,
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
    if "label" not in names and split is not None:
        raise UsageError("--split requires the reward label", hint="--reward label=1")


def _check_selection(trainer: Any) -> None:
    """Raise RefusedError if validation found every checkpoint to be worse on a slice."""
    if trainer.state.best_model_checkpoint is not None or not trainer.refuses_worse_slices:
        return
    if not trainer.worse_slices():
        return  # no validation was due
    raise RefusedError(
        f"every checkpoint is worse than the start on a slice of targets: {trainer.worse_slices()}",
        hint="a smaller learning_rate, a larger beta or sft_weight; or the same command with "
        "--allow-worse-slices, which writes the last checkpoint",
    )


def _summary(run: RlRun, finished: Finished) -> RlSummary:
    trainer = finished.trainer
    tokens, groups = finished.totals.seen
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    return RlSummary(
        algorithm=run.options.algorithm,
        model=str(run.out),
        steps=trainer.state.global_step,
        loss=finished.loss,
        metric=run.options.metric_for_best_model,
        start=trainer.start_value,
        best=trainer.state.best_metric,
        tokens=tokens,
        groups=groups,
        seconds=finished.totals.seconds,
        peak_rss_gib=peak_rss_gib(),
        peak_cuda_gib=peak_cuda_gib(),
        trained_parameters=sum(weight.numel() for weight in trained),
        resumed_from=finished.checkpoint.name if finished.checkpoint else None,
    )
