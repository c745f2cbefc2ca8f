"""Brings a trained model to a newer bundle and newer events, at a fraction of a new training.

The method follows SID alignment with fine-tuning (arXiv:2604.13273): the new codebook's codes are
renamed to those of the old one, embedding rows are carried over, and a short training stage adapts
the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.extras import require
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import options_from, take_options
from sidtool.base.output import locked, refuse_existing, remove
from sidtool.base.output_name import FOLDER
from sidtool.base.progress import Log, Progress
from sidtool.data import Items
from sidtool.data.split import Split, open_split
from sidtool.evaluation.tuning import TuneMemoryOptions, tune_memory
from sidtool.examples import TaskCatalogOptions, make_sft, named_task, read_catalog, side_files
from sidtool.memory import Memory, rebuild_memory
from sidtool.model import bind_memory, carry_model, check_model_folder
from sidtool.model.contract import (
    MEMORY_COPY,
    Contract,
    TrainParams,
    Verdict,
    check_bundle,
    check_model_split,
    model_folder,
)
from sidtool.registry import open_source
from sidtool.tokenizer import align, check_item_vectors, item_vectors
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.renewal.last_training import (
    RefreshOptions,
    check_fields,
    chosen_seen,
    last_sft_options,
    last_training,
    last_weights,
    refuse_options_of_training,
    refuse_other_run,
    refuse_other_template,
    training_settings,
)
from sidtool.training.training import TrainingSummary, train


@dataclass(frozen=True)
class RefreshPlan:
    """A refresh with its inputs checked."""

    model_dir: Path
    contract: Contract
    bundle: Bundle
    """the newer bundle, aligned if the model cannot use it as it is"""
    verdict: Verdict
    """how it relates to the model's own"""
    split: Split | None
    last: TrainParams | None
    """the model's last training stage; None without a split"""
    out: Path
    items: Path | None
    embeddings: Sequence[str | Path]
    catalog: Items | None
    """what training examples are made of; None without a split"""
    options: RefreshOptions
    trust_remote_code: bool

    @property
    def trained(self) -> Path:
        """Where the model is trained: a model with a memory beside the output, which then gets the
        renewed memory; a resumed call keeps a model that is trained."""
        if self.contract.memory is None:
            return self.out
        return self.out.with_name(f"{self.out.name}.trained.partial") / "model"


@dataclass(frozen=True)
class RefreshSummary:
    """What a refresh did."""

    model: str
    verdict: Verdict
    """how the bundle in use relates to the model's own"""
    training: TrainingSummary | None
    """None without a split"""

    def to_json(self) -> dict[str, Any]:
        """The fields as one flat object of JSON values."""
        value: dict[str, Any] = {
            "model": self.model,
            "bundle": self.verdict.kind,
            "reassigned_share": self.verdict.reassigned_share,
        }
        return value | (self.training.to_json() if self.training else {})


@keeps_inputs("a model")
def refresh(
    model_dir: str | Path,
    bundle: Bundle | str | Path,
    out: str | Path,
    *,
    split: Split | str | Path | None = None,
    items: str | Path | None = None,
    embeddings: Sequence[str | Path] = (),
    catalog_options: TaskCatalogOptions | None = None,
    options: RefreshOptions | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
    **keywords: Any,
) -> RefreshSummary:
    """Write the model in `model_dir`, brought to `bundle` and to the events of `split`, to `out`.
    The options may also be given as keywords.

    A bundle with another codebook is aligned with the model's first; the embedding rows of its
    codes are carried over (`carry_model`). With a split, a training stage follows, with the tasks
    and settings of the model's last one and a `share` of its epochs; tasks that show text need
    `items`. Intermediate files are in OUT.refresh.partial during the call, and a call that was
    killed resumes its training. A memory of the model is built again from the split and the bundle,
    with its settings, weight and power; if the model has a re-ranker, weight, power and re-ranker
    are chosen on the validation users again. A memory that compares the items' vectors needs them
    for another bundle, from the files `embeddings` or by the texts of `items`. Without a split the
    memory is left out. Teachers of the last stage are not used, of which `notify` receives a line.

    Raises UsageError if `out` exists without `force`, for a model of adapters, if a catalog or
    vectors are needed, or if its training examples cannot be made again; RefusedError if the bundle
    cannot be aligned; CompatibilityError if the model was not trained by `train`, which a split
    requires, or may have learned from events that the split holds out.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> sidtool.add_items(bundle, remove=["b007"]).save("newer.zarr")
        >>> sidtool.refresh("tuned", "newer.zarr", "refreshed").verdict.kind
        'refreshed'
    """
    catalog_options = take_options(TaskCatalogOptions, catalog_options, keywords)
    plan = plan_refresh(
        model_dir,
        bundle,
        Path(out),
        split=split,
        items=items,
        embeddings=embeddings,
        catalog_options=catalog_options,
        options=options_from(RefreshOptions, options, keywords, (TaskCatalogOptions,)),
        trust_remote_code=trust_remote_code,
        force=force,
    )
    return run_refresh(plan, force=force, progress=progress, log=log, notify=notify)


def run_refresh(
    plan: RefreshPlan,
    *,
    force: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
) -> RefreshSummary:
    """Do as `refresh` does what `plan_refresh` has planned."""
    out = plan.out
    if plan.split is None or plan.last is None or plan.catalog is None:
        if plan.contract.memory is not None and notify:
            notify("the memory is left out: sidtool tune-memory binds one to the new model")
        return RefreshSummary(str(out), _carry(plan, out, force=force), None)
    if plan.last.teachers and notify:
        notify("the model was distilled: refresh trains it without its teachers")
    sft_options = last_sft_options(plan.contract, plan.last, plan.options.seed)
    train_options, sft_fields = training_settings(plan.last, plan.options)
    work = out.with_name(f"{out.name}.refresh.partial")
    examples = work / "examples" / "train.jsonl"
    is_validated = plan.contract.history_prompt is not None and len(plan.split.valid) > 0

    def say(text: str) -> None:
        """A line about the model, not about its copy with the newer bundle."""
        if notify:
            notify(text.replace(str(work / "model"), str(plan.model_dir)))

    with locked(work):
        memory = _renewed_memory(plan, plan.split)
        # made anew by a resumed call: the same inputs give the same files, which are checked
        try:
            verdict = _carry(plan, work / "model", force=True)
            made_from = (plan.bundle, plan.catalog, plan.split, examples, sft_options)
            weights = last_weights(plan.last)
            make_sft(*made_from, model=work / "model", weights=weights, force=True)
            refuse_other_template(plan.contract, examples, plan.model_dir)
            training = train(
                work / "model",
                examples,
                plan.trained,
                options=train_options,
                sft_fields=sft_fields,
                valid=side_files(examples)["valid"] if is_validated else None,
                force=force,
                reuse=memory is not None,
                trust_remote_code=plan.trust_remote_code,
                progress=progress,
                log=log,
                notify=say,
            )
            if memory is not None and plan.contract.memory is not None:
                before = plan.contract.memory
                if before.reranker is not None and plan.split.valid:
                    # it was fitted to the earlier model: all is chosen again
                    repeats = plan.contract.targets_repeat
                    seen = chosen_seen(before.reranker.exclude_seen, repeats)
                    choice = TuneMemoryOptions(exclude_seen=seen)
                    tune_memory(plan.trained, plan.split, memory, out, choice, force=force)
                else:
                    # its metrics are those of the earlier model and split
                    binding = replace(before, digest=memory.digest, validation={}, reranker=None)
                    bind_memory(plan.trained, memory, binding, out, force=force)
                training = replace(training, model=str(out))  # it was trained in a folder beside
                remove(plan.trained.parent)
        finally:
            remove(work)
    return RefreshSummary(str(out), verdict, training)


def _carry(plan: RefreshPlan, out: Path, *, force: bool) -> Verdict:
    return carry_model(
        plan.model_dir,
        plan.bundle,
        out,
        seed=plan.options.seed,
        refresh_share=None if plan.split is None else plan.options.share,
        trust_remote_code=plan.trust_remote_code,
        force=force,
    )


def _renewed_memory(plan: RefreshPlan, split: Split) -> Memory | None:
    """The model's memory, built again from a split and the newer bundle; None if it has none."""
    if plan.contract.memory is None:
        return None
    memory = Memory.open_verified(plan.model_dir / MEMORY_COPY)
    catalog = _embedded_catalog(memory, plan)
    vectors = None
    if plan.embeddings or catalog is not None:
        vectors = item_vectors(plan.bundle, catalog, embeddings=plan.embeddings)
    return rebuild_memory(memory, split, plan.bundle, vectors)


def _embedded_catalog(memory: Memory, plan: RefreshPlan) -> Path | None:
    """The catalog whose texts give the memory's vectors; None if it needs none, or has files."""
    if plan.embeddings or not memory.manifest.needs_vectors(plan.bundle.identity):
        return None
    return plan.items


def _catalog(
    bundle: Bundle, items: str | Path | None, options: TaskCatalogOptions, last: TrainParams
) -> Items:
    """The catalog; without a file, the ids and titles of the bundle: the tasks need no more."""
    if items is None:
        return bundle.catalog
    if last.sft is not None:
        options = replace(options, fields=last.sft.columns)
    recorded = bundle.manifest.made_from.columns
    return read_catalog(Path(items), last.task_weights, options, recorded)[0]


def plan_refresh(
    model: str | Path,
    bundle: Bundle | str | Path,
    out: Path,
    *,
    split: Split | str | Path | None = None,
    items: str | Path | None = None,
    embeddings: Sequence[str | Path] = (),
    catalog_options: TaskCatalogOptions | None = None,
    options: RefreshOptions,
    trust_remote_code: bool = False,
    force: bool = False,
) -> RefreshPlan:
    """Check what a refresh checks before it reads weights or vectors; writes nothing.
    Raises as `refresh`."""
    refuse_existing(out, force, FOLDER)
    if items is None and catalog_options not in (None, TaskCatalogOptions()):
        raise UsageError("columns of the catalog need the catalog", hint="--items CATALOG")
    require("models" if split is None else "train")
    model_dir = model_folder(model, trust_remote_code=trust_remote_code)
    contract, model_bundle, _ = check_model_folder(model_dir)
    if contract.base_folder is not None:
        raise UsageError(
            f"{model_dir} has adapters, whose base cannot be changed",
            hint="sidtool merge writes a whole model",
        )
    if not isinstance(bundle, Bundle):
        bundle = open_source(str(bundle))
    try:
        check_bundle(model_bundle, bundle)
    except CompatibilityError:  # the model cannot use it as it is
        is_same = bundle.identity.codebook == model_bundle.identity.codebook
        if bundle.codebook is None or model_bundle.codebook is None:
            raise
        if is_same and bundle.space == model_bundle.space:  # SIDs are those of other items
            raise
        bundle = align(bundle, model_bundle)
    plan = RefreshPlan(
        model_dir=model_dir,
        contract=contract,
        bundle=bundle,
        verdict=check_bundle(model_bundle, bundle),
        split=None,
        last=None,
        out=out,
        items=None if items is None else Path(items),
        embeddings=embeddings,
        catalog=None,
        options=options,
        trust_remote_code=trust_remote_code,
    )
    if split is None:
        refuse_options_of_training(options, items=items, embeddings=embeddings)
        return plan
    if embeddings and contract.memory is None:
        raise UsageError(f"{model_dir} has no memory, which --embeddings are for")
    if not isinstance(split, Split):
        split = open_split(split, recorded=contract.event_columns(model_bundle))
    check_model_split(contract, bundle, "the refresh", split.reference, model=f"model {model_dir}")
    last = last_training(contract, model_dir)
    check_fields(last, split.fields)
    for name in last.task_weights if items is None else ():
        task = named_task(name)
        if task.history_source != "sid" or task.target not in ("sid", "list", "feedback"):
            raise UsageError(f"task {name} shows text of items", hint="--items CATALOG")
    if contract.memory is not None:
        memory = Memory.open(model_dir / MEMORY_COPY)
        catalog = _embedded_catalog(memory, plan)
        are_given = bool(embeddings) or catalog is not None
        memory.manifest.check_vectors(bundle.identity, are_given=are_given)
        check_item_vectors(bundle, catalog, embeddings=embeddings)
    train_options, sft_fields = training_settings(last, options)
    if not force:
        refuse_other_run(plan.trained, bundle, split, train_options, sft_fields)
    training_catalog = _catalog(bundle, items, catalog_options or TaskCatalogOptions(), last)
    return replace(plan, split=split, last=last, catalog=training_catalog)
