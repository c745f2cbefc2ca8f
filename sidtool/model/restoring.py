"""Restores contract and bundle of a model that another program loaded and saved.

`save_pretrained` writes weights, configuration and tokenizer; of what sidtool stores beside them
only the contract's copy in config.json survives."""

import shutil
from pathlib import Path

from sidtool.base.checkpoint.files import weight_digests
from sidtool.base.errors import CompatibilityError, DataError
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.model.contract.compat import Verdict
from sidtool.model.contract.contract import CONTRACT, Contract
from sidtool.model.contract.embedded import embedded_contract
from sidtool.model.contract.read import read_embedded
from sidtool.model.contract.stage_record import RestoreParams, StageRecord
from sidtool.model.contract.write import write_contract
from sidtool.model.load import load_model_folder
from sidtool.tokenizer.bundle.bundle import Bundle


def lacks_contract(folder: Path) -> bool:
    """Whether a model has a contract in its configuration only. Raises DataError if that is
    damaged."""
    return not (folder / CONTRACT).exists() and embedded_contract(folder) is not None


def restore(folder: Path, bundle: Bundle, out: Path, *, force: bool = False) -> Verdict:
    """Write a copy of the model in `folder` with its contract and the bundle that it was made for.

    Its memory is not restored: the weight was tuned for other weights. Raises DataError if there is
    no tokenizer, CompatibilityError for another bundle, or if tokenizer or weights have lost the
    SID tokens, else as `load_model_folder`."""
    refuse_existing(out, force, FOLDER)
    restored, verdict = check_restore(folder, bundle)
    with new_dir(out, force=force) as target:
        skip = shutil.ignore_patterns("checkpoint-*")  # the training state of the other program
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=skip)
        write_contract(target, restored, bundle)
        load_model_folder(target, device="cpu", dtype="float32")
    return verdict


def check_restore(folder: Path, bundle: Bundle) -> tuple[Contract, Verdict]:
    """The contract to restore, and what is said of it; writes nothing. Raises as `restore` does
    before it copies."""
    contract = read_embedded(folder)
    assert contract is not None  # as `lacks_contract` says
    if bundle.identity != contract.identity:
        raise CompatibilityError(
            f"the model in {folder} was made for bundle {contract.identity.digest[:12]}, this is "
            f"{bundle.identity.digest[:12]}",
            hint="restore it with that bundle first, then rebind it to a newer one",
        )
    for name in contract.files:
        if name.startswith("tokenizer") and not (folder / name).is_file():
            raise DataError(f"{folder} has no {name}", hint="tokenizer.save_pretrained writes it")
    weights = weight_digests(folder)
    stored = {name: digest for name, digest in contract.files.items() if name in weights}
    changed = stored != weights
    restored = contract.with_stage(StageRecord("restore", RestoreParams(changed)))
    if changed:
        message = "contract and bundle restored; what another program trained it on is not recorded"
    else:
        message = "contract and bundle restored; the weights are those that sidtool wrote"
    return restored, Verdict("same", message)
