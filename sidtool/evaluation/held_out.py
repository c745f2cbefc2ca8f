"""What a model is evaluated on: the part of a split that it has not learned from, and perhaps
another model that it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sidtool.base.errors import CompatibilityError, DataError
from sidtool.base.locations import given_path, opened
from sidtool.data import UnknownOptions
from sidtool.data.split import Example, Split, check_split, folder_manifest, open_split
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.memory.mixture import MemoryOptions
from sidtool.model import LoadedModel, ModelOptions, loaded_model
from sidtool.model.contract import check_model_split, model_folder, open_bundle_copy, read_contract
from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Bundle

OTHER_MODEL = "other model"
"""The name of the system that a model is compared with."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A model and the examples that it is evaluated on."""

    loaded: LoadedModel
    against: LoadedModel | None
    split: Split
    part: Sequence[Example]

    @classmethod
    def open(
        cls,
        model: LoadedModel | str | Path,
        split: Split | str | Path,
        on: Literal["test", "valid"],
        against: LoadedModel | str | Path | None = None,
        bundle: Bundle | str | Path | None = None,
        memory: MemoryOptions | str | Path | None = None,
        loading: ModelOptions | None = None,
    ) -> "HeldOut":
        """Open the split and load the models, both unless they are; `bundle` and `memory` are used
        with the model in place of its own, `loading` with both. Raises as `loaded_model`, and
        CompatibilityError if a model, its bundle or its memory may have learned from held-out
        events."""
        name = "the split" if isinstance(split, Split) else str(split)
        # first, so that what is wrong with it is said before weights are read
        trust = loading is not None and loading.trust_remote_code
        split = open_model_split(model, split, bundle, trust_remote_code=trust)
        loaded = loaded_model(model, bundle, memory, loading)
        other = against if isinstance(against, LoadedModel) else None
        if isinstance(against, str | Path):
            other = loaded_model(against, options=loading)
        checked = [(loaded, "the model", "the memory")]
        if other is not None:
            checked.append((other, f"the {OTHER_MODEL}", f"the memory of the {OTHER_MODEL}"))
        for one, label, memory_name in checked:
            check_model_split(one.contract, one.bundle, name, split.reference, model=label)
            if one.memory is not None:
                check_split(memory_name, one.memory.memory.manifest.split, name, split.reference)
        return cls(loaded, other, split, split.test if on == "test" else split.valid)


def open_model_split(
    model: LoadedModel | str | Path,
    split: Split | str | Path,
    bundle: Bundle | str | Path | None = None,
    *,
    trust_remote_code: bool = False,
) -> Split:
    """A split, or that of a folder or of a file of events, which has the columns that a model was
    made from, with a `bundle` in place of its own; reads no weights. Raises as `open_split` does.
    """
    if isinstance(split, Split):
        return split
    if folder_manifest(given_path(split)) is not None:
        return open_split(split)
    if isinstance(model, LoadedModel):
        return open_split(split, recorded=model.contract.event_columns(model.bundle))
    location: str | Path = opened(model, "locate_model")
    folder = model_folder(location, trust_remote_code=trust_remote_code)
    contract = read_contract(folder)
    used = open_bundle_copy(folder, contract) if bundle is None else opened(bundle, "open_bundle")
    return open_split(split, recorded=contract.event_columns(used))


def check_recommends(model: LoadedModel, against: LoadedModel | None, example: Example) -> None:
    """Raise DataError for a model, or another one, that was not trained to recommend, or whose
    prompt shows a field that an example lacks."""
    for name, one in (("model", model), (OTHER_MODEL, against)):
        if one is None:
            continue
        if one.contract.history_prompt is None:
            raise DataError(
                f"the {name} was not trained to recommend: its contract has no history prompt",
                hint="train it on a task such as next-item",
            )
        session = QuerySession.of(replace(one, memory=None))
        indexed = IndexedExamples.of(one.bundle, [example], exclude_seen=False)
        next(example_queries(session, indexed, follow=False))


def check_targets(
    bundle: Bundle,
    targets: Sequence[str],
    options: UnknownOptions,
    problem: str = "targets are items that the bundle lacks, each of them a miss",
) -> None:
    """Raise RefusedError if the bundle lacks too many targets, unless the options allow it; warn of
    fewer."""
    rows = bundle.items.rows(targets).tolist()
    missing = [item for item, row in zip(targets, rows, strict=True) if row < 0]
    ids, sources = bundle.items.ids, ("the bundle", "targets")
    options.check_unknown(problem, ids, missing, sources, count=len(missing), total=len(targets))


def check_same_catalog(one: Bundle, other: Bundle) -> None:
    """Raise CompatibilityError unless two bundles have the same active items; their SIDs may
    differ."""
    for bundle, without in ((one, other), (other, one)):
        rows = bundle.items.id_texts.places_in(without.items.id_texts)[bundle.active]  # (active,)
        is_missing = (rows < 0) | ~without.is_active[rows]
        if is_missing.any():
            first = bundle.items.ids[int(bundle.active[np.argmax(is_missing)])]
            raise CompatibilityError(
                f"the models recommend from different catalogs: bundle {bundle.manifest.name!r} "
                f"({bundle.identity.digest[:12]}) has {is_missing.sum()} active items that bundle "
                f"{without.manifest.name!r} ({without.identity.digest[:12]}) lacks, the first is "
                f"{first!r}",
                hint="only models of the same items compare: name the older model first, and give "
                "it the newer bundle by --bundle; sidtool rebind gives it to another model",
            )
