"""Builds the trainer of a run of reinforcement: the policy, the start, groups, rewards, validation
and callbacks."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.progress import Log, Progress
from sidtool.data.split import read_examples
from sidtool.evaluation import Judge, sample_examples
from sidtool.model import LoadedModel, load_model_folder, load_without_weights
from sidtool.model.contract import Selection, write_contract
from sidtool.model.prompt import prompt_encoder
from sidtool.recommendation import QuerySession
from sidtool.training.loop.watched import ProgressCallback
from sidtool.training.reinforcement.examples import (
    EventFields,
    RlExamples,
    history_task,
    read_rl_examples,
)
from sidtool.training.reinforcement.list_trainer import ListTrainer, ListValidation
from sidtool.training.reinforcement.pairs import ListWriter
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.rewards.reward import RewardContext, reward_sum
from sidtool.training.reinforcement.rl_run import RlRun
from sidtool.training.reinforcement.trainer import GroupTrainer


def check_examples(run: RlRun, arguments: Any) -> None:
    """Read the examples and the validation users of a run. Raises as `build_trainer`."""
    loaded = load_without_weights(
        run.model_dir, run.contract, run.bundle, trust_remote_code=run.trust_remote_code
    )
    _read_examples(run, loaded, arguments)
    tuple(read_examples(run.valid))


def build_trainer(
    run: RlRun, arguments: Any, allow_worse_slices: bool, progress: Progress | None, log: Log | None
) -> GroupTrainer:
    """Load the model of a run and everything that trains it; `arguments` is its GRPOConfig.

    Raises UsageError if settings do not fit the model or the examples, DataError if examples are
    malformed."""
    loaded = load_model_folder(
        run.model_dir,
        bundle=run.bundle,
        device=str(arguments.device),
        dtype="float32",
        trust_remote_code=run.trust_remote_code,
        contract=run.contract,
    )
    # the memory's weight was tuned for the weights before: the policy is the model alone
    loaded = replace(loaded, memory=None)
    session = QuerySession.of(loaded)

    def policy_of(model: Any) -> Policy:
        return Policy.of(model, session.tokens, session.trie, session.normalize)

    examples = _read_examples(run, loaded, arguments)
    reference = None
    # the objective compares the policy with the start
    if run.options.algorithm == "ipa" or run.config_fields["beta"]:
        start = copy.deepcopy(loaded.model).eval().requires_grad_(False)
        reference = policy_of(start)
    policy = policy_of(loaded.model)
    users = sample_examples(tuple(read_examples(run.valid)), run.options.eval_users, run.seed)
    device = str(arguments.device)
    scores = {name: source.load(device) for name, source in run.reward_inputs.items()}
    reward = partial(reward_sum, run.rewards, context=RewardContext(run.bundle, scores))
    build: Any = GroupTrainer
    if run.options.algorithm == "ipa":
        prompt = run.contract.list_prompt
        assert prompt is not None  # as the plan has checked
        length = prompt.list_length
        of_lists = QuerySession.of(loaded, list_length=length)
        writer = ListWriter(of_lists, reward, length, run.options)
        build = partial(ListTrainer, lists=writer, validation=ListValidation.of(writer, users))
    trainer: GroupTrainer = build(
        run.options,
        loaded,
        arguments,
        session=session,
        policy=policy,
        examples=examples,
        reward=reward,
        reference=reference,
        judge=Judge.of(
            session,
            users,
            examples.events(run.bundle),
            metric=run.options.metric_for_best_model,
            num_beams=run.options.eval_num_beams,
            exclude_seen=bool(run.options.exclude_seen),
        ),
        refuses_worse_slices=not allow_worse_slices,
        callbacks=[ProgressCallback(progress, log)],
    )
    contract = run.new_contract()

    def write(folder: Path, best: Selection | None) -> None:
        write_contract(folder, contract.with_best(best), run.bundle)

    trainer.write_contract = write
    return trainer


def _read_examples(run: RlRun, loaded: LoadedModel, arguments: Any) -> RlExamples:
    is_of_lists = run.options.algorithm == "ipa"
    examples = read_rl_examples(
        run.examples,
        None if is_of_lists else history_task(run.lineage, run.examples),
        prompt_encoder(loaded.tokenizer, loaded.tokens),
        run.bundle,
        exclude_seen=bool(run.options.exclude_seen),
    )
    prompts = arguments.generation_batch_size // arguments.num_generations
    if len(examples) < prompts:
        raise UsageError(
            f"a generation has {prompts} prompts, but {run.examples} has {len(examples)} events "
            "with a history",
            hint="lower per_device_train_batch_size",
        )
    if run.fields is not None:
        fields = EventFields.of(examples.users, run.fields, run.bundle)
        examples = replace(examples, fields=fields)
    return examples
