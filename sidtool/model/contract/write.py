"""Completes a model folder: bundle, model card and contract. Every command that makes a model ends
so."""

import shutil
from dataclasses import replace
from pathlib import Path

from sidtool.base.checkpoint import CONFIG, model_digests
from sidtool.base.digests import file_digest
from sidtool.base.documents import sealed_text
from sidtool.base.output import write_whole
from sidtool.model.contract.card import MODEL_CARD, model_card
from sidtool.model.contract.contract import BUNDLE_COPY, CONTRACT, Contract
from sidtool.model.contract.embedded import embed
from sidtool.model.contract.memory_binding import MEMORY_COPY
from sidtool.model.contract.read import check_files
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
        embed(folder, replace(contract, files=digests).to_json())
        digests[CONFIG] = file_digest(folder / CONFIG)
    stored = replace(contract, files=digests)
    write_whole(folder / MODEL_CARD, model_card(stored, bundle))
    write_whole(folder / CONTRACT, sealed_text(stored.to_json()))
    return stored
