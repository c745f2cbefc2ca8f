"""How the files of a model folder are verified, and pushed to the Hugging Face hub."""

import hashlib
from dataclasses import replace
from pathlib import Path

from sidtool.base.errors import IntegrityError, RefusedError
from sidtool.base.hub import HubCommit, HubPush, hub_url, upload
from sidtool.base.markdown import with_dataset
from sidtool.base.signatures import SIGNATURE
from sidtool.base.storage import Storage
from sidtool.memory import verify_memory
from sidtool.model.contract.card import MODEL_CARD, model_card
from sidtool.model.contract.contract import BUNDLE_COPY, CONTRACT, MEMORY_COPY
from sidtool.model.contract.stored import REPOSITORY, read_stored_model
from sidtool.tokenizer.bundle import Bundle, signed_objects, verify


def verify_model(location: str) -> list[tuple[str, str]]:
    """Everything that is wrong with a model folder: (file, reason); empty if it is intact. Checks
    every file against its SHA-256, and the values of bundle and memory. Raises DataError if there
    is no model, CompatibilityError if its sid.json is of another version of sidtool."""
    try:
        model = read_stored_model(location)
    except IntegrityError as error:
        return [(CONTRACT, str(error))]
    broken = []
    storage = Storage(location)
    listed = storage.listing()
    for name, digest in sorted(model.objects.items()):
        if name not in listed:
            broken.append((name, "missing"))
            continue
        actual = hashlib.sha256()
        for piece in storage.pieces(name, int(listed[name]["size"])):
            actual.update(piece)
        if actual.hexdigest() != digest:
            broken.append((name, f"its SHA-256 differs from that in {CONTRACT}"))
    if not broken:
        bundle = verify(f"{location}/{BUNDLE_COPY}")
        broken = [(f"{BUNDLE_COPY}/{name}", why) for name, why in bundle]
    if not broken and model.contract.memory is not None:
        memory = verify_memory(f"{location}/{MEMORY_COPY}")
        broken = [(f"{MEMORY_COPY}/{name}", why) for name, why in memory]
    return broken


def push_model(folder: Path, repo_id: str, license: str | None, push: HubPush) -> HubCommit:
    """Write the files of a verified model folder with its card to a repository of the Hugging Face
    hub, in one commit. Raises RefusedError if that has another kind of artifact, or if the model
    needs a base; DataError if the hub refuses."""
    model = read_stored_model(str(folder))
    base = model.contract.base_folder
    if base is not None:  # a folder of this machine
        raise RefusedError(
            f"{folder} has adapters, and needs the model {base.path}",
            hint=f"sidtool merge {folder} -o MERGED writes a model that needs no base",
        )
    url = hub_url(repo_id)
    files: dict[str, Path | bytes] = {name: folder / name for name in [*model.objects, CONTRACT]}
    contract = replace(model.contract, license=license or model.contract.license)
    card = model_card(contract, Bundle.open(folder / BUNDLE_COPY), reference=url)
    files[MODEL_CARD] = with_dataset(card, push.dataset).encode()
    if push.signer is not None:
        signed = {
            REPOSITORY: model.signed_objects,
            BUNDLE_COPY: signed_objects(folder / BUNDLE_COPY, "bundle"),
        }
        if model.contract.memory is not None:
            signed[MEMORY_COPY] = signed_objects(folder / MEMORY_COPY, "memory")
        for name, digests in signed.items():
            files[f"{name}{SIGNATURE}"] = push.signer.sign(name, digests)
    parts = [BUNDLE_COPY, MEMORY_COPY]
    signatures = [f"{name}{SIGNATURE}" for name in (REPOSITORY, *parts)]
    weights = ["*.safetensors", "*.safetensors.index.json"]
    return upload(url, files, [*parts, *signatures, *weights], push)
