"""How a command that makes a model ends: the new folder has the bundle, the model card and the
contract, and replaces no base that it needs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from sidtool.base.checkpoint import CONFIG, EMBEDDED, model_digests, read_object
from sidtool.base.digests import file_digest
from sidtool.base.documents import sealed_text
from sidtool.base.errors import SidtoolError, UsageError
from sidtool.base.output import write_whole
from sidtool.model.contract.card import MODEL_CARD, model_card
from sidtool.model.contract.contract import BUNDLE_COPY, CONTRACT, MEMORY_COPY, Contract
from sidtool.model.contract.folder import check_files, read_contract
from sidtool.tokenizer.bundle import ROOT, Bundle


def copy_model(folder: Path, contract: Contract, target: Path) -> None:
    """Copy the files of a model folder, without its contract, into the folder `target`. Raises
    IntegrityError if the copies are not those that the contract records."""
    # checkpoints have the old contract
    skip = shutil.ignore_patterns(CONTRACT, "checkpoint-*")
    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=skip)
    check_files(target, contract)


def write_contract(folder: Path, contract: Contract, bundle: Bundle) -> Contract:
    """Complete a model folder: the bundle's copy, the model card, and sid.json last, so that a
    folder with a contract has its bundle. Returns the contract with the digests of the folder's
    files. config.json contains the contract, too, because it survives `save_pretrained`."""
    bundle.save(folder / BUNDLE_COPY, force=True)
    roots = [f"{name}/{ROOT}" for name in (BUNDLE_COPY, MEMORY_COPY) if (folder / name).is_dir()]
    digests = model_digests(folder) | {name: file_digest(folder / name) for name in roots}
    if (folder / CONFIG).is_file():
        del digests[CONFIG]
        embedded = replace(contract, files=digests).to_json()
        settings = read_object(folder / CONFIG) | {EMBEDDED: embedded}
        # as transformers spells it
        write_whole(folder / CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        digests[CONFIG] = file_digest(folder / CONFIG)
    stored = replace(contract, files=digests)
    write_whole(folder / MODEL_CARD, model_card(stored, bundle))
    write_whole(folder / CONTRACT, sealed_text(stored.to_json()))
    return stored


def refuse_base_as_output(out: Path, contract: Contract, *others: Path) -> None:
    """Raise UsageError if a model with the bases of `contract`, and with `others`, would replace
    one of them: nothing could load it then."""
    bases = [path.resolve() for path in others]
    seen: set[Path] = set()
    while contract.base_folder is not None:
        base = Path(contract.base_folder.path).resolve()
        if base in seen:
            break
        seen.add(base)
        try:
            contract = read_contract(base)
        except SidtoolError:
            break  # a base that was moved or removed cannot be replaced
    if out.resolve() in (*bases, *seen):
        raise UsageError(
            f"{out} is the base of the adapters that would replace it", hint="write to another path"
        )
