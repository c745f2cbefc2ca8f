"""Brings a trained model to a newer bundle and newer events, at a fraction of a new training.

The method follows SID alignment with fine-tuning (arXiv:2604.13273): the new codebook's codes are
renamed to those of the old one, embedding rows are carried over, and a short training stage adapts
the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sidtool.build.encode import read_sources
from sidtool.bundle.bundle import Bundle
from sidtool.contract.compat import Verdict
from sidtool.contract.contract import Contract
from sidtool.contract.memory_binding import MEMORY_COPY
from sidtool.data.columns import recorded_columns
from sidtool.data.items import Items, make_items
from sidtool.errors import UsageError
from sidtool.memory.build import rebuild_memory
from sidtool.memory.memory import Memory, open_verified
from sidtool.model.bind_memory import bind_memory
from sidtool.model.carry import carry_model
from sidtool.output import locked, remove
from sidtool.recommendation.query import Progress
from sidtool.renewal.last_training import (
    RefreshOptions,
    last_sft_options,
    refuse_other_template,
    training_settings,
)
from sidtool.renewal.plan import plan_refresh
from sidtool.sft.catalog import CatalogOptions, read_catalog
from sidtool.sft.lineage import side_files
from sidtool.sft.make_sft import make_sft
from sidtool.sft.sft_options import SftOptions
from sidtool.sft.tasks import named_task, writes_sids
from sidtool.splits.split import Split
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
    sft_options = last_sft_options(contract, last, options.seed)
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
            refuse_other_template(contract, examples, model_dir)
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
