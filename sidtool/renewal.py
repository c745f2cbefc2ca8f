"""Brings a trained model to a newer bundle and newer events, at a fraction of a new training.

The method follows SID alignment with fine-tuning (arXiv:2604.13273): the new codebook's codes are
renamed to those of the old one, embedding rows are carried over, and a short training stage adapts
the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from sidtool.build.align import align
from sidtool.build.encode import read_sources
from sidtool.bundle.bundle import Bundle
from sidtool.contract.compat import Verdict, check_bundle
from sidtool.contract.contract import Contract
from sidtool.contract.locate import model_folder
from sidtool.contract.memory_binding import MEMORY_COPY
from sidtool.contract.split_check import check_model_split, event_columns
from sidtool.contract.stage_record import TrainParams
from sidtool.data.columns import recorded_columns
from sidtool.data.items import Items, make_items
from sidtool.errors import CompatibilityError, UsageError
from sidtool.extras import require
from sidtool.memory.build import rebuild_memory
from sidtool.memory.memory import Memory, open_verified
from sidtool.model.bind_memory import bind_memory
from sidtool.model.carry import carry_model
from sidtool.model.load import check_model_folder
from sidtool.output import locked, refuse_existing, remove
from sidtool.output_name import FOLDER
from sidtool.prompt.prompts import HistoryPrompt
from sidtool.recommendation.query import Progress
from sidtool.registry.references import open_bundle
from sidtool.sft.catalog import CatalogOptions, read_catalog
from sidtool.sft.lineage import read_lineage, side_files
from sidtool.sft.make_sft import make_sft
from sidtool.sft.sft_options import SftOptions
from sidtool.sft.tasks import named_task, writes_sids
from sidtool.splits.files import open_split
from sidtool.splits.split import Split
from sidtool.training.run import TrainingSummary, train
from sidtool.training.settings import DEFAULTS, TrainOptions
from sidtool.training.training_run import Log

DEFAULT_SHARE = 0.2


@dataclass(frozen=True)
class RefreshOptions:
    """How a model is refreshed. Raises UsageError for a share outside of (0, 1]."""

    share: float = DEFAULT_SHARE
    """Length of the training stage, as a share of the epochs of the model's last one."""
    learning_rate: float | None = None
    """Default: that of the model's last training stage."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"--share must be above 0 and at most 1, not {self.share}")


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


def plan_refresh(
    model_dir: str | Path,
    bundle: Bundle | str | Path,
    out: str | Path,
    *,
    split: Split | str | Path | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
) -> RefreshPlan:
    """Check what `refresh` checks before it reads weights, a catalog or vectors; writes nothing.
    Raises as `refresh`."""
    refuse_existing(Path(out), force, FOLDER)
    require("models" if split is None else "train")
    model_dir = model_folder(model_dir, trust_remote_code=trust_remote_code)
    contract, own_bundle, _ = check_model_folder(model_dir)
    if not isinstance(bundle, Bundle):
        bundle = open_bundle(str(bundle))
    bundle = usable_bundle(bundle, own_bundle)
    verdict = check_bundle(own_bundle, bundle)
    if split is None:
        return RefreshPlan(model_dir, contract, bundle, verdict, None, None)
    if not isinstance(split, Split):
        split = open_split(split, recorded=event_columns(contract, own_bundle))
    check_model_split(contract, bundle, "the split", split.reference, model=f"model {model_dir}")
    last = last_training(contract, model_dir)
    return RefreshPlan(model_dir, contract, bundle, verdict, split, last)


def refresh(
    model_dir: str | Path,
    bundle: Bundle | str | Path,
    out: str | Path,
    *,
    split: Split | str | Path | None = None,
    items: str | Path | None = None,
    embeddings: Sequence[str | Path] = (),
    catalog_options: CatalogOptions | None = None,
    options: RefreshOptions | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
) -> RefreshSummary:
    """Write the model in `model_dir`, brought to `bundle` and to the events of `split`, to `out`.

    A bundle with another codebook is aligned with the model's first; the embedding rows of its
    codes are carried over (`carry_model`). With a split, a training stage follows, with the tasks
    and settings of the model's last one and a `share` of its epochs; tasks that show text need
    `items`. Intermediate files are in OUT.refresh.partial during the call, and a call that was
    killed resumes its training. A memory of the model is built again from the split and the bundle,
    with its settings, weight and power; `embeddings` are files of the items' vectors, which only a
    memory that compares them needs, for other items. It is in the loss again if it was in that of
    the model. Without a split the memory is left out.

    Raises UsageError if `out` exists without `force`, or a catalog or vectors are needed;
    RefusedError if the bundle cannot be aligned; CompatibilityError if the model was not trained by
    `train` or may have learned from events that the split holds out.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> sidtool.add_items(bundle, remove=["b007"]).save("newer.zarr")
        >>> sidtool.refresh("tuned", "newer.zarr", "refreshed").verdict.kind
        'refreshed'
    """
    out = Path(out)
    options = options or RefreshOptions()
    plan = plan_refresh(
        model_dir, bundle, out, split=split, force=force, trust_remote_code=trust_remote_code
    )
    model_dir = plan.model_dir
    contract = plan.contract
    bundle = plan.bundle
    carry = partial(
        carry_model, model_dir, bundle, seed=options.seed, trust_remote_code=trust_remote_code
    )
    if plan.split is None or plan.last is None:
        return RefreshSummary(str(out), carry(out, force=force), None)
    split = plan.split
    last = plan.last
    sft_options = _sft_options(contract, last, options.seed)
    catalog = _catalog(bundle, items, sft_options, catalog_options or CatalogOptions())
    work = out.with_name(f"{out.name}.refresh.partial")
    start = work / "model"
    examples = work / "examples" / "train.jsonl"
    train_options, sft_fields = training_settings(last, options)
    memory = _renewed_memory(model_dir, contract, split, bundle, embeddings)
    if last.memory is not None and memory is None:
        raise UsageError(
            f"model {model_dir} was trained with a memory in its loss and contains none",
            hint="sidtool tune-memory binds it",
        )
    loss_memory = memory if last.memory is not None else None
    # a model that a memory is bound to afterwards; a resumed call goes on with it
    trained = out if memory is None else out.with_name(f"{out.name}.trained.partial") / "model"
    with locked(out):
        pass  # refuse at once what `train` would refuse when all of this is done
    with locked(work):
        # made anew by a resumed call: the same inputs give the same files, which `train` checks
        try:
            verdict = carry(start, force=True)
            make_sft(bundle, catalog, split, examples, sft_options, model=start, force=True)
            _refuse_template(contract, examples, model_dir)
            summary = train(
                start,
                examples,
                trained,
                options=train_options,
                sft_fields=sft_fields,
                valid=side_files(examples)["valid"] if contract.history_prompt else None,
                memory=loss_memory,
                split=split if loss_memory is not None else None,
                force=force and memory is None,
                reuse=memory is not None,
                trust_remote_code=trust_remote_code,
                progress=progress,
                log=log,
                notify=notify,
            )
            if memory is not None:
                assert contract.memory is not None
                binding = replace(contract.memory, digest=memory.digest)
                bind_memory(trained, memory, binding, out, force=force)
                remove(trained.parent)
        finally:
            remove(work)
    return RefreshSummary(str(out), verdict, summary)


def _renewed_memory(
    model_dir: Path,
    contract: Contract,
    split: Split,
    bundle: Bundle,
    embeddings: Sequence[str | Path],
) -> Memory | None:
    """The model's memory, built again from a split and a bundle; None if it has none."""
    if contract.memory is None:
        if embeddings:
            raise UsageError(f"{model_dir} has no memory, which --embeddings are for")
        return None
    memory = open_verified(model_dir / MEMORY_COPY)
    vectors = read_sources(bundle, embeddings, list(bundle.items.ids)) if embeddings else None
    return rebuild_memory(memory, split, bundle, vectors)


def usable_bundle(bundle: Bundle, own_bundle: Bundle) -> Bundle:
    """`bundle`, aligned with the model's own if the model cannot use it as it is.

    Raises RefusedError if it cannot be aligned."""
    try:
        check_bundle(own_bundle, bundle)
    except CompatibilityError:
        return align(bundle, own_bundle)
    return bundle


def last_training(contract: Contract, model_dir: Path) -> TrainParams:
    """The parameters of a model's last training stage.

    Raises CompatibilityError without one, UsageError if its examples had weights or its prompt
    shows fields."""
    _refuse_fields(contract, model_dir)
    for record in reversed(contract.stages):
        if isinstance(record.params, TrainParams):
            _refuse_weights(record.params, model_dir)
            return record.params
    raise CompatibilityError(
        f"model {model_dir} was not trained by sidtool: its tasks and settings are unknown",
        hint="sidtool make-sft and sidtool train",
    )


def _refuse_weights(last: TrainParams, model_dir: Path) -> None:
    if last.weights is not None:
        raise UsageError(
            f"model {model_dir} was trained on examples weighted by {last.weights}, which refresh "
            "cannot make",
            hint="sidtool make-sft --weight, then sidtool train",
        )


def _refuse_fields(contract: Contract, model_dir: Path) -> None:
    if contract.history_prompt is not None and contract.history_prompt.shows_fields:
        raise UsageError(
            f"the prompt of model {model_dir} shows fields, by a template that refresh has not",
            hint="sidtool make-sft --template, then sidtool train",
        )


def _refuse_template(contract: Contract, examples: Path, model_dir: Path) -> None:
    """Raise UsageError if new training examples show histories by other templates than the
    model's prompts."""
    lineage = read_lineage(examples)
    pairs: list[tuple[HistoryPrompt | None, HistoryPrompt | None]] = [
        (contract.history_prompt, lineage.history_prompt),
        (contract.list_prompt, lineage.list_prompt),
    ]
    made_labels = {prompt.task: prompt for prompt in lineage.label_prompts}
    pairs += [(prompt, made_labels.get(prompt.task)) for prompt in contract.label_prompts]
    for prompt, made in pairs:
        if prompt is None or made is None or prompt.task != made.task:
            continue
        texts = (prompt.template, prompt.separator, prompt.item)
        if texts != (made.template, made.separator, made.item):
            raise UsageError(
                f"the prompt of model {model_dir} is {prompt.template!r:.80}, a template that "
                "refresh has not",
                hint="sidtool make-sft --template, then sidtool train",
            )


def _sft_options(contract: Contract, last: TrainParams, seed: int) -> SftOptions:
    """The training examples of the model's last stage, as far as its contract records them."""
    prompt = contract.history_prompt
    history_length = prompt.history_length if prompt else SftOptions.history_length
    return SftOptions(
        tasks=last.task_weights,
        format=last.example_format,  # type: ignore[arg-type]
        max_length=last.max_length or SftOptions.max_length,
        history_length=history_length,
        seed=seed,
        lists=last.lists,
    )


def _catalog(
    bundle: Bundle, items: str | Path | None, options: SftOptions, catalog_options: CatalogOptions
) -> Items:
    """The catalog; without a file, the ids and titles of the bundle if the tasks need no more."""
    if items is not None:
        recorded = recorded_columns(bundle.manifest.source)
        return read_catalog(Path(items), options.tasks, catalog_options, recorded)[0]
    for name in options.tasks:
        task = named_task(name)
        if task.per != "user" or task.source != "sid" or not writes_sids(task):
            raise UsageError(f"task {name} shows text of items", hint="--items CATALOG")
    ids = tuple(bundle.items.ids)
    titles = tuple(bundle.items.titles or ("",) * len(ids))
    return make_items(ids, titles, ids, fields={}, template="{title}")


def training_settings(
    last: TrainParams, options: RefreshOptions
) -> tuple[TrainOptions, Mapping[str, Any]]:
    """The settings of the model's last training stage, shortened."""
    names = {field.name for field in fields(TrainOptions)}
    recorded = {name: value for name, value in last.options.items() if name in names}
    train_options = replace(TrainOptions(**recorded), stage="full")
    if train_options.token_budget is not None:
        budget = round(train_options.token_budget * options.share)
        train_options = replace(train_options, token_budget=budget)
    sft_fields = dict(last.sft_fields)
    if (steps := sft_fields.get("max_steps", -1)) > 0:
        sft_fields["max_steps"] = max(1, round(steps * options.share))
    elif train_options.token_budget is None:
        epochs = sft_fields.get("num_train_epochs", DEFAULTS["num_train_epochs"])
        sft_fields["num_train_epochs"] = epochs * options.share
    else:
        sft_fields.pop("num_train_epochs", None)
    sft_fields["seed"] = options.seed
    if options.learning_rate is not None:
        sft_fields["learning_rate"] = options.learning_rate
    return train_options, sft_fields
