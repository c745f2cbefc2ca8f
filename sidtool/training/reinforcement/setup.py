"""Builds the trainer of a run of reinforcement: the policy, the start, groups, rewards, validation
and callbacks."""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.progress import Progress
from sidtool.data.split import read_examples
from sidtool.evaluation import sample_examples
from sidtool.model import LoadedModel, load_model_folder
from sidtool.model.prompt import prompt_encoder
from sidtool.recommendation import QuerySession
from sidtool.training.loop.watched import ProgressCallback
from sidtool.training.reinforcement.examples import (
    EventFields,
    ListExamples,
    RlExamples,
    history_task,
    read_list_examples,
    read_rl_examples,
)
from sidtool.training.reinforcement.groups import GroupMaker
from sidtool.training.reinforcement.judge import Judge
from sidtool.training.reinforcement.list_trainer import ListTrainer
from sidtool.training.reinforcement.list_validation import ListValidation
from sidtool.training.reinforcement.pairs import ListRewardFunction, PairMaker
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.rewards.reward import RewardContext, reward_sum
from sidtool.training.reinforcement.rl_run import RlRun
from sidtool.training.reinforcement.trainer import GroupTrainer
from sidtool.training.training_run import Log


def build_trainer(
    run: RlRun,
    arguments: Any,
    allow_worse_slices: bool,
    progress: Progress | None,
    log: Log | None,
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
    examples = _read_examples(run, loaded, arguments)
    reference = None
    if run.needs_start:
        start = copy.deepcopy(loaded.model).eval().requires_grad_(False)
        reference = (start, _policy(start, session))
    maker = GroupMaker(
        session,
        _policy(loaded.model, session),
        examples,
        size=arguments.num_generations,
        method=run.options.rollouts,
        exclude_seen=run.options.exclude_seen,
    )
    device = str(arguments.device)
    scores = {name: source.load(device) for name, source in run.reward_inputs.items()}
    reward = partial(reward_sum, run.rewards, context=RewardContext(run.bundle, scores))
    build: Any = GroupTrainer
    if isinstance(examples, ListExamples):
        pairs = _pair_maker(run, loaded, examples, reward)
        build = partial(ListTrainer, pairs=pairs, validation=_list_validation(run, pairs))
    trainer: GroupTrainer = build(
        run,
        loaded,
        arguments,
        maker=maker,
        reward=reward,
        reference=reference,
        judge=_judge(run, session, examples),
        refuses_worse_slices=not allow_worse_slices,
        callbacks=[ProgressCallback(progress, log)],
    )
    return trainer


def _policy(model: Any, session: QuerySession) -> Policy:
    return Policy.of(model, session.tokens, session.trie, session.normalize)


def _read_examples(run: RlRun, loaded: LoadedModel, arguments: Any) -> RlExamples:
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    shared = (encoder, loaded.tokens, run.bundle)
    exclude_seen = run.options.exclude_seen
    examples: RlExamples
    if run.options.algorithm == "ipa":
        examples = read_list_examples(run.examples, *shared, exclude_seen=exclude_seen)
    else:
        task = history_task(run.lineage, run.examples)
        examples = read_rl_examples(run.examples, task, *shared, exclude_seen=exclude_seen)
    prompts = arguments.generation_batch_size // arguments.num_generations
    if len(examples) < prompts:
        raise UsageError(
            f"a generation has {prompts} prompts, but {run.examples} has {len(examples)} events "
            "with a history",
            hint="lower per_device_train_batch_size",
        )
    if run.fields is not None:
        fields = EventFields.of(examples.users, run.fields.split, run.bundle)
        examples = replace(examples, fields=fields)
    return examples


def _pair_maker(
    run: RlRun, loaded: LoadedModel, examples: ListExamples, reward: ListRewardFunction
) -> PairMaker:
    """What writes the lists of a run of `ipa` and compares them."""
    prompt = run.contract.list_prompt
    assert prompt is not None  # as the plan has checked
    return PairMaker(
        QuerySession.of(loaded, list_length=prompt.list_length),
        examples,
        reward,
        length=prompt.list_length,
        candidates=run.options.candidate_lists,
        search=run.options.rollouts,
        exclude_seen=run.options.exclude_seen,
        seed=run.seed,
    )


def _list_validation(run: RlRun, pairs: PairMaker) -> ListValidation:
    sample = sample_examples(tuple(read_examples(run.valid)), run.options.eval_users, run.seed)
    return ListValidation.of(
        pairs.session,
        sample,
        pairs.reward,
        length=pairs.length,
        num_beams=run.options.eval_num_beams,
        exclude_seen=run.options.exclude_seen,
    )


def _judge(run: RlRun, session: QuerySession, examples: RlExamples) -> Judge:
    return Judge.of(
        session,
        tuple(read_examples(run.valid)),
        examples.events(run.bundle),
        metric=run.options.metric_for_best_model,
        num_beams=run.options.eval_num_beams,
        users=run.options.eval_users,
        exclude_seen=run.options.exclude_seen,
        seed=run.seed,
    )
