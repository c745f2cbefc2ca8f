"""A newer bundle for a model that is trained already: whether it may have it, and the model with it
inside.

Knows model folders and two bundles; reads no weight. The table of verdicts is compat.py's.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sidtool.build.align import check_alignable
from sidtool.bundle.bundle import Bundle
from sidtool.errors import CompatibilityError, RefusedError
from sidtool.model.compat import Verdict, check
from sidtool.model.contract import BUNDLE_COPY, CONTRACT, Contract, write_contract
from sidtool.model.load import check_model_folder
from sidtool.output import new_dir


@dataclass(frozen=True)
class Outlook:
    """What a model for the old bundle must do to use the new one, and why, as a line for people."""

    kind: Literal["works", "works after align", "retrain"]
    message: str


def outlook(old: Bundle, new: Bundle) -> Outlook:
    """Judge `new` for the models that were made for `old`."""
    contract = Contract(
        old.identity, old.space, 0, base_model="", base_revision=None, base_weights={}, stage=""
    )
    try:
        verdict = check(contract, old, new)
    except CompatibilityError as refusal:
        try:
            check_alignable(new, old)
        except RefusedError:
            return Outlook("retrain", str(refusal))
        return Outlook("works after align", str(refusal))
    return Outlook("works", verdict.message)


def rebind(folder: Path, bundle: Bundle, out: Path, *, force: bool = False) -> Verdict:
    """Write a copy of the model in `folder` that has `bundle` inside, and the verdict on that
    bundle.

    Weights and tokenizer are copied as they are; the contract gets the new identity and a stage of
    its own. Raises CompatibilityError or IntegrityError unless model and bundle belong together; an
    aligned bundle is a SidtoolWarning."""
    contract, bundle, verdict = check_model_folder(folder, bundle)
    parent = {"stage": contract.stage, "params": dict(contract.params)}
    facts = {
        "bundle_before": contract.identity.digest,
        "verdict": verdict.kind,
        "moved_share": verdict.moved_share,
    }
    bound = replace(
        contract,
        identity=bundle.identity,
        stage="rebind",
        parents=(*contract.parents, parent),
        params=facts,
    )
    with new_dir(out, force=force) as target:
        skip = shutil.ignore_patterns(
            CONTRACT, BUNDLE_COPY, "checkpoint-*"
        )  # those hold the old contract
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=skip)
        write_contract(target, bound, bundle)
    return verdict
