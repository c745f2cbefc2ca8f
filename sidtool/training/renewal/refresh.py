"""Brings a trained model to a newer bundle and newer events, at a fraction of a new training.

The method follows SID alignment with fine-tuning (arXiv:2604.13273): the new codebook's codes are
renamed to those of the old one, embedding rows are carried over, and a short training stage adapts
the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.output import locked, remove
from sidtool.base.progress import Progress
from sidtool.data.items import Items, make_items
from sidtool.data.split.split import Split
from sidtool.examples.catalog import TaskCatalogOptions, read_catalog
from sidtool.examples.examples_run import make_sft
from sidtool.examples.lineage import side_files
from sidtool.memory.build import rebuild_memory
from sidtool.memory.memory import Memory, open_verified
from sidtool.model.carry import carry_model
from sidtool.model.contract.compat import Verdict
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.memory_binding import MEMORY_COPY
from sidtool.model.contract.stage_record import TrainParams
from sidtool.model.memory_copy import bind_memory
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.make.encode import read_sources
from sidtool.training.renewal.last_training import (
    RefreshOptions,
    last_sft_options,
    last_weights,
    refuse_other_template,
    training_settings,
)
from sidtool.training.renewal.plan import RefreshPlan, plan_refresh
from sidtool.training.run import TrainingSummary, train
from sidtool.training.training_run import Log


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
) -> RefreshSummary:
    """Write the model in `model_dir`, brought to `bundle` and to the events of `split`, to `out`.

    A bundle with another codebook is aligned with the model's first; the embedding rows of its
    codes are carried over (`carry_model`). With a split, a training stage follows, with the tasks
    and settings of the model's last one and a `share` of its epochs; tasks that show text need
    `items`. Intermediate files are in OUT.refresh.partial during the call, and a call that was
    killed resumes its training. A memory of the model is built again from the split and the bundle,
    with its settings, weight and power; `embeddings` are files of the items' vectors, which only a
    memory that compares them needs, for other items. It is in the loss again if it was in that of
    the model. Without a split the memory is left out. Teachers of the last stage are not used, of
    which `notify` receives a line.

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
        model_dir,
        bundle,
        out,
        split=split,
        items=items,
        embeddings=embeddings,
        options=options,
        force=force,
        trust_remote_code=trust_remote_code,
    )
    carry = partial(
        carry_model,
        plan.model_dir,
        plan.bundle,
        seed=options.seed,
        trust_remote_code=trust_remote_code,
    )
    if plan.split is None or plan.last is None:
        return RefreshSummary(str(out), carry(out, force=force), None)
    if plan.last.teachers and notify:
        notify("the model was distilled: refresh trains it without its teachers")
    sft_options = last_sft_options(plan.contract, plan.last, options.seed)
    catalog = _catalog(plan.bundle, items, plan.last, catalog_options or TaskCatalogOptions())
    train_options, sft_fields = training_settings(plan.last, options)
    memory = _renewed_memory(plan, plan.split, embeddings)
    loss_memory = _loss_memory(plan, plan.last, memory)
    work = out.with_name(f"{out.name}.refresh.partial")
    start = work / "model"
    examples = work / "examples" / "train.jsonl"
    train_stage = partial(
        train,
        start,
        examples,
        options=train_options,
        sft_fields=sft_fields,
        valid=side_files(examples)["valid"] if plan.contract.history_prompt else None,
        memory=loss_memory,
        split=None if loss_memory is None else plan.split,
        trust_remote_code=trust_remote_code,
        progress=progress,
        log=log,
        notify=notify,
    )
    with locked(out):
        pass  # refuse at once what `train` would refuse when all of this is done
    with locked(work):
        # made anew by a resumed call: the same inputs give the same files, which `train` checks
        try:
            verdict = carry(start, force=True)
            made_from = (plan.bundle, catalog, plan.split, examples, sft_options)
            make_sft(*made_from, model=start, weights=last_weights(plan.last), force=True)
            refuse_other_template(plan.contract, examples, plan.model_dir)
            if memory is None:
                training = train_stage(out, force=force)
            else:
                training = _train_and_bind(train_stage, memory, plan.contract, out, force)
        finally:
            remove(work)
    return RefreshSummary(str(out), verdict, training)


def _train_and_bind(
    train_stage: Callable[..., TrainingSummary],
    memory: Memory,
    contract: Contract,
    out: Path,
    force: bool,
) -> TrainingSummary:
    """Train the model in a folder beside `out`, then write it to `out` with the renewed memory and
    the weights that `contract` records for it. A resumed call keeps a model that is trained."""
    assert contract.memory is not None  # or there would be no memory to renew
    trained = out.with_name(f"{out.name}.trained.partial") / "model"
    training = train_stage(trained, reuse=True, force=force)
    binding = replace(contract.memory, digest=memory.digest)
    bind_memory(trained, memory, binding, out, force=force)
    remove(trained.parent)
    return training


def _renewed_memory(
    plan: RefreshPlan, split: Split, embeddings: Sequence[str | Path]
) -> Memory | None:
    """The model's memory, built again from a split and the newer bundle; None if it has none."""
    if plan.contract.memory is None:
        return None
    memory = open_verified(plan.model_dir / MEMORY_COPY)
    vectors = None
    if embeddings:
        vectors = read_sources(plan.bundle, embeddings, list(plan.bundle.items.ids))
    return rebuild_memory(memory, split, plan.bundle, vectors)


def _loss_memory(plan: RefreshPlan, last: TrainParams, memory: Memory | None) -> Memory | None:
    """The renewed memory if the last training stage had one in its loss, else None. Raises
    UsageError if that stage had one and the model contains none."""
    if last.memory is None:
        return None
    if memory is None:
        raise UsageError(
            f"model {plan.model_dir} was trained with a memory in its loss and contains none",
            hint="sidtool tune-memory binds it",
        )
    return memory


def _catalog(
    bundle: Bundle, items: str | Path | None, last: TrainParams, options: TaskCatalogOptions
) -> Items:
    """The catalog; without a file, the ids and titles of the bundle, since the tasks need no
    more."""
    if items is not None:
        recorded = bundle.manifest.made_from.columns
        if last.sft is not None:
            options = replace(options, fields=last.sft.columns)
        return read_catalog(Path(items), last.task_weights, options, recorded)[0]
    ids = tuple(bundle.items.ids)
    titles = tuple(bundle.items.titles or ("",) * len(ids))
    return make_items(ids, titles, ids, fields={}, template="{title}")
