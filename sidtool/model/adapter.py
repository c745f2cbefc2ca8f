"""A model's folder that holds adapters (PEFT's form) over another folder: its base, found and
checked by digest.

Knows how to put the two together; knows nothing of how adapters learn.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidtool.errors import CompatibilityError, UsageError
from sidtool.model.contract import Contract, read_contract, write_contract
from sidtool.model.pretrained import Checkpoint, load_model, locate, save_pretrained, weight_digests
from sidtool.output import new_dir, refuse_existing


def base_of(folder: Path) -> dict[str, Any]:
    """What the contract of an adapter over `folder` says of it: its path and the digests of its
    weights."""
    return {"path": str(folder.resolve()), "weights": weight_digests(Checkpoint(folder))}


def load_weights(
    folder: Path, contract: Contract, *, dtype: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The model in a folder with this contract, as `load_model` gives it; adapters are merged in
    float32.

    Raises CompatibilityError if the base of an adapter is not found as it was.
    """
    if contract.base_folder is None:
        return load_model(
            locate(str(folder), trust_remote_code=trust_remote_code),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    from peft import PeftModel

    base = _find(folder, contract.base_folder)
    model = load_weights(
        base, read_contract(base), dtype="float32", trust_remote_code=trust_remote_code
    )
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return merged.to(dtype=_torch_dtype(dtype or "float32")).eval()


def merge(folder: Path, out: Path, *, dtype: str = "float32", force: bool = False) -> Contract:
    """Write the model in `folder`, an adapter, as a plain one that needs no base.

    Raises UsageError if it is plain already, else as `load_model_folder`.
    """
    from sidtool.model.load import load_model_folder

    contract = read_contract(folder)
    if contract.base_folder is None:
        raise UsageError(f"{folder} holds no adapter: it is a plain model already")
    refuse_existing(out, force)
    served = load_model_folder(folder, device="cpu", dtype=dtype)
    parent = {"stage": contract.stage, "params": dict(contract.params)}
    plain = replace(
        contract,
        base_folder=None,
        stage="merge",
        parents=(*contract.parents, parent),
        params=dict(contract.base_folder),
    )
    with new_dir(out, force=force) as target:
        save_pretrained(target, served.model, served.tokenizer)
        write_contract(target, plain, served.bundle)
    return plain


def _find(folder: Path, base: Mapping[str, Any]) -> Path:
    """Where it was, or beside the adapter: the two may have moved together."""
    named = Path(base["path"])
    for path in (named, folder.resolve().parent / named.name):
        if path.is_dir() and weight_digests(Checkpoint(path)) == base["weights"]:
            return path
    state = "has other weights" if named.is_dir() else "is not there"
    raise CompatibilityError(
        f"{folder} is an adapter over {named}, which {state}",
        hint="put that model there or beside the adapter; `sidtool merge` makes a model that "
        "needs no base",
    )


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
