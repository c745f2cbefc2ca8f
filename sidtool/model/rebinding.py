"""Replaces the bundle inside a trained model by a newer one that the model is compatible with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidtool.base.checkpoint.finite import check_finite_files
from sidtool.base.errors import CompatibilityError, RefusedError
from sidtool.base.extras import require
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.memory.distribution import MemoryIndex
from sidtool.memory.memory import open_verified
from sidtool.model.contract.bases import refuse_base_as_output
from sidtool.model.contract.compat import Verdict, check_bundle
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.memory_binding import MEMORY_COPY
from sidtool.model.contract.stage_record import RebindParams, StageRecord
from sidtool.model.contract.write import copy_model, write_contract
from sidtool.model.load import check_model_folder
from sidtool.model.restoring import check_restore, lacks_contract, restore
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.make.align import check_alignable


@dataclass(frozen=True)
class Outlook:
    """What a model for the old bundle needs in order to use the new one, and why."""

    kind: Literal["works", "works after align", "retrain"]
    message: str


def outlook(old: Bundle, new: Bundle) -> Outlook:
    """Whether models that were made for `old` can use `new`."""
    try:
        verdict = check_bundle(old, new)
    except CompatibilityError as refusal:
        try:
            check_alignable(new, old)
        except RefusedError:
            return Outlook("retrain", str(refusal))
        return Outlook("works after align", str(refusal))
    return Outlook("works", verdict.message)


def rebind(folder: str | Path, bundle: Bundle, out: str | Path, *, force: bool = False) -> Verdict:
    """Write a copy of the model in `folder` with `bundle` inside; returns the verdict on it.

    Weights and tokenizer are copied unchanged; the contract records the replacement as a stage. For
    a model that another program saved, contract and bundle are restored (`restore`). Raises
    CompatibilityError or IntegrityError unless model and bundle belong together, DataError if
    weights are not finite, UsageError if `out` exists without `force`; an aligned bundle is a
    SidtoolWarning.

    Examples:
        >>> newer = sidtool.add_items(sidtool.open_bundle("shop.zarr"), remove=["b007"])
        >>> sidtool.rebind("tuned", newer, "rebound").kind
        'refreshed'
    """
    out = Path(out)
    folder = model_folder(folder)
    if lacks_contract(folder):
        return restore(folder, bundle, out, force=force)
    contract, bundle, verdict = check_model_folder(folder, bundle)
    _check_memory(folder, contract, bundle)
    refuse_base_as_output(out, contract)
    check_finite_files(folder)
    params = RebindParams(contract.identity.digest, verdict.kind, verdict.reassigned_share)
    rebound = contract.with_stage(
        StageRecord("rebind", params), identity=bundle.identity, memory=contract.memory
    )
    refuse_existing(out, force, FOLDER)
    with new_dir(out, force=force) as target:
        copy_model(folder, contract, target)
        write_contract(target, rebound, bundle)
    return verdict


def check_rebind(folder: str | Path, bundle: Bundle, out: Path, *, force: bool = False) -> Verdict:
    """The verdict that `rebind` returns; reads no weights and writes nothing. Raises as `rebind`
    does before it copies."""
    refuse_existing(out, force, FOLDER)
    require("models")
    folder = model_folder(folder)
    if lacks_contract(folder):
        _, verdict = check_restore(folder, bundle)
        return verdict
    contract, bundle, verdict = check_model_folder(folder, bundle)
    _check_memory(folder, contract, bundle)
    refuse_base_as_output(out, contract)
    return verdict


def _check_memory(folder: Path, contract: Contract, bundle: Bundle) -> None:
    """Raise CompatibilityError unless the memory of a model, if it has one, can be used with a
    bundle."""
    if contract.memory is not None:
        MemoryIndex.of(open_verified(folder / MEMORY_COPY), bundle)
