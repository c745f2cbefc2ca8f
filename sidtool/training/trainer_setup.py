"""Builds the trainer of a run: model, tokenized examples, loss, teachers, validation, callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback

from sidtool.base.errors import DataError, UsageError
from sidtool.base.progress import Log, Progress
from sidtool.data.split import read_examples
from sidtool.evaluation import Validator, item_knn_metrics
from sidtool.examples import ExampleParts, TokenizedExamples
from sidtool.model import LoadedModel, load_model_folder
from sidtool.model.contract import Selection, write_contract
from sidtool.model.network import (
    Lora,
    TokenEmbeddings,
    check_positions,
    max_positions,
    share_embedding_layers,
)
from sidtool.model.prompt import prompt_encoder
from sidtool.recommendation import QuerySession
from sidtool.recommendation.search import evaluation_mode, require_mask
from sidtool.training.execution import ForgettingCheck
from sidtool.training.loop.machine import wants_fsdp
from sidtool.training.loop.trainer import CausalTrainer, EncoderDecoderTrainer, SidTrainer
from sidtool.training.loop.watched import ProgressCallback, StopCallback
from sidtool.training.loss.augment import (
    Augmentation,
    AugmentedExamples,
    EpochCallback,
    PrefixExamples,
)
from sidtool.training.loss.loss import Loss, load_teachers
from sidtool.training.loss.part_examples import PartExamples, PartOrder
from sidtool.training.run import TrainingRun, sliding_windows
from sidtool.training.settings import parse_metric
from sidtool.training.trainer_config import weight_dtype


def check_inputs(run: TrainingRun, loaded: LoadedModel) -> None:
    """Read what a run reads, and every example as the first epoch does; `loaded` may have no
    weights. Raises as the run does."""
    ForgettingCheck.read(run.examples, run.lineage, run.contract.tokens)
    examples = _varied(run, loaded, _examples(run, loaded))
    _validator(run, loaded, with_item_knn=False)
    for number in range(len(examples)):
        examples[number]


def build_trainer(
    run: TrainingRun,
    arguments: Any,
    progress: Progress | None,
    log: Log | None,
    check: ForgettingCheck | None = None,
    max_seconds: float | None = None,
) -> SidTrainer:
    """Load the model of a run and everything that trains it; `arguments` is as `run_config`
    makes it. `check` measures the model now; what it measures after the training is written with
    the model. After `max_seconds` the training stops, and the model records the step.

    Raises UsageError if settings do not fit the model or the examples, CompatibilityError if model
    and teachers do not belong together, DataError if examples are malformed."""
    options, softmax_over = run.options, run.softmax_over
    loaded = load_model_folder(
        run.model_dir,
        bundle=run.bundle,
        device=str(arguments.device),
        dtype=weight_dtype(run, arguments),
        trust_remote_code=run.trust_remote_code,
        contract=run.contract,
    )
    read = _examples(run, loaded, arguments)
    examples = _varied(run, loaded, read)
    order = PartOrder(read) if isinstance(read, PartExamples) else None
    validator = _validator(run, loaded)
    set_dropout(loaded.model, options.dropout)
    if wants_fsdp(arguments):
        share_embedding_layers(loaded.model)
    lora, embeddings = _added_parts(run, loaded)
    loss = Loss(
        softmax_over,
        loaded.tokens,
        run.bundle.trie() if softmax_over == "trie" else None,
        smoothing=arguments.label_smoothing_factor,
        distill_weight=options.distill_weight,
    )
    teachers = load_teachers(
        [folder for folder in run.teacher_dirs if folder not in run.memories],
        loaded,
        loss.columns(),
        memories=list(run.memories.values()),
        longest=int(read.lengths.max()) if isinstance(read, TokenizedExamples) else 0,
        trust_remote_code=run.trust_remote_code,
    )
    callbacks: list[Any] = [ProgressCallback(progress, log)]
    for varied in (examples, order):
        if isinstance(varied, AugmentedExamples | PartOrder):
            callbacks.append(EpochCallback(varied.vary))
    if run.valid and options.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(options.early_stopping_patience))
    trainer_class: Any = EncoderDecoderTrainer
    if run.contract.kind == "causal":
        trainer_class = partial(CausalTrainer, batching=options.batching)
    trainer: SidTrainer = trainer_class(
        model=loaded.model,
        args=arguments,
        examples=examples,
        tokenizer=loaded.tokenizer,
        loss=loss,
        validator=validator,
        callbacks=callbacks,
        lora=lora,
        token_embeddings=embeddings,
        muon=options.optimizer == "muon",
        teachers=teachers,
        order=order,
    )
    trainer.stop_step = options.stop_step
    trainer.add_callback(StopCallback(trainer, max_seconds))
    trainer.write_contract = _contract_writer(run, trainer, check)
    if validator is not None and arguments.eval_strategy != "no":
        with trainer.evaluated_model() as model, evaluation_mode(model) as bare:
            require_mask(bare, "validation cannot search with it, eval_strategy=no leaves it out")
    if check is not None:
        check.measure(trainer)
    return trainer


def _contract_writer(
    run: TrainingRun, trainer: SidTrainer, check: ForgettingCheck | None
) -> Callable[[Path, Selection | None], object]:
    """What writes the contract and the bundle of a trained model into a folder."""
    planned = run.new_contract()

    def write(folder: Path, best: Selection | None) -> None:
        contract = planned
        if trainer.stop_step != run.options.stop_step:  # a time limit ended it
            options = replace(run.options, stop_step=trainer.stop_step)
            contract = replace(run, options=options).new_contract()
        forgetting = None if check is None else check.result
        write_contract(folder, contract.with_best(best, forgetting), run.bundle)

    return write


def _added_parts(
    run: TrainingRun, loaded: LoadedModel
) -> tuple[Lora | None, TokenEmbeddings | None]:
    """Adapters, or the embedding rows that are trained alone, added to a model."""
    options = run.options
    if options.stage == "full":
        return None, None
    ids = loaded.contract.added_ids
    if options.stage == "lora":
        r, alpha = options.lora_r, options.lora_alpha
        return Lora(loaded.model, run.model_dir, ids, r=r, alpha=alpha, seed=run.seed), None
    loaded.model.requires_grad_(False)
    return None, TokenEmbeddings(loaded.model, ids)


def set_dropout(model: nn.Module, rate: float | None) -> None:
    """Override the dropout rate of a model, except on attention weights; None leaves it.

    Raises UsageError if the architecture has no dropout."""
    if rate is None:
        return
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout)
        and "attn_dropout" not in name
        and "attention_dropout" not in name
    ]
    if rate and not layers:
        raise UsageError(
            f"dropout={rate}, but {type(model).__name__} has no dropout layers",
            hint="leave dropout out",
        )
    for layer in layers:
        layer.p = rate


def _examples(
    run: TrainingRun, loaded: LoadedModel, arguments: Any = None
) -> TokenizedExamples | PartExamples:
    """The examples of a file or of a single part as tokens; of several parts those of this process,
    or of all processes without `arguments`, which are read when they are needed."""
    # make-sft does not count the user's token
    limit = run.lineage.max_length + bool(run.contract.users)
    positions = max_positions(loaded.model)
    if positions:
        limit = min(limit, positions)

    def tokenize(examples: Sequence[Mapping[str, Any]] | None) -> TokenizedExamples:
        made = TokenizedExamples.read(
            run.examples,
            prompt_encoder(loaded.tokenizer, loaded.tokens),
            codes_only=run.softmax_over != "vocabulary",
            after_prompts=sliding_windows(run.options, run.contract.kind) != "none",
            user_tokens=run.contract.users,
            examples=examples,
        )
        longest = int(made.lengths.max(initial=0))
        if longest > limit:
            raise UsageError(
                f"the longest training example has {longest} tokens, the limit is {limit}",
                hint="examples that fit: make-sft --model MODEL --max-length "
                f"{limit - bool(run.contract.users)}",
            )
        return made

    if not run.lineage.parts:
        return tokenize(None)
    parts = ExampleParts(run.examples, run.lineage)
    rank, processes, batch_size = 0, 1, 1
    if arguments is not None:
        rank, processes = arguments.process_index, arguments.world_size
        batch_size = arguments.train_batch_size
    if processes == 1 and len(parts.sizes) == 1:
        made = tokenize([parts.example(0, line) for line in parts.lines(0)])
        if not len(made):
            raise DataError(f"{parts} has no training example with a target")
        return made
    return PartExamples(
        parts, tokenize, seed=run.seed, batch_size=batch_size, rank=rank, processes=processes
    )


def _varied(
    run: TrainingRun, loaded: LoadedModel, examples: TokenizedExamples | PartExamples
) -> TokenizedExamples | PartExamples | AugmentedExamples:
    """The examples, or what epochs draw from them: prefixes of sequences, augmented sequences."""
    tokens, options = loaded.tokens, run.options
    augmentation = Augmentation(
        item_dropout=options.item_dropout,
        reverse_prob=options.reverse_prob,
        shuffle_span=options.shuffle_span,
        item_fields=run.item_fields,
    )
    windows = sliding_windows(options, run.contract.kind)
    if windows != "none" and isinstance(examples, TokenizedExamples):
        prefixes = PrefixExamples(examples, tokens, every=windows == "all")
        return AugmentedExamples(prefixes, augmentation, tokens, run.seed)
    if not augmentation.is_active:
        return examples
    return AugmentedExamples(examples, augmentation, tokens, run.seed)


def _validator(
    run: TrainingRun, loaded: LoadedModel, *, with_item_knn: bool = True
) -> Validator | None:
    if run.valid is None:
        return None
    if run.history_prompt is None:
        raise UsageError(
            "validation needs a task that recommends from histories; these examples have none",
            hint="train without `valid`",
        )
    # what the trained model will recommend by
    contract = replace(run.contract, history_prompt=run.history_prompt)
    session = QuerySession.of(replace(loaded, contract=contract, memory=None), run.normalize)
    options, examples = run.options, tuple(read_examples(run.valid))
    validator = Validator(
        examples,
        session,
        users=options.eval_users,
        num_beams=options.eval_num_beams,
        k=parse_metric(options.metric_for_best_model)[1],
        exclude_seen=bool(options.eval_exclude_seen),
        seed=run.seed,
    )
    # the line to beat, but not where training events are in no history of a validation user, as
    # most are where these are those of one part
    shows_training = run.lineage.split.protocol in ("leave-one-out", "last-session")
    if with_item_knn and shows_training and not run.lineage.parts:
        validator.item_knn = item_knn_metrics(examples, validator.examples, validator.k)
    # the literal text of a prompt may leave no room for any history
    check_positions(loaded.model, validator.longest_prompt, run.bundle.space.levels - 1)
    return validator
