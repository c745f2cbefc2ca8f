"""Loads the weights of a model folder. An adapter folder (PEFT's format) is merged into its base,
which is located by path and verified by digest."""

from pathlib import Path
from typing import Any

from sidtool.errors import CompatibilityError
from sidtool.model.contract import Contract, read_contract
from sidtool.model.pretrained import Checkpoint, Dtype, load_model, locate, weight_digests
from sidtool.model.stage_record import ModelReference


def load_weights(
    folder: Path,
    contract: Contract,
    *,
    dtype: Dtype | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The model in a folder, as `load_model` returns it; adapters are merged in float32.

    Raises CompatibilityError if the base of an adapter is missing or has changed."""
    if contract.base_folder is None:
        checkpoint = locate(str(folder), trust_remote_code=trust_remote_code)
        return load_model(checkpoint, dtype=dtype, trust_remote_code=trust_remote_code)
    import torch
    from peft import PeftModel

    base = _find_base(folder, contract.base_folder)
    model = load_weights(
        base, read_contract(base), dtype="float32", trust_remote_code=trust_remote_code
    )
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return merged.to(dtype=getattr(torch, dtype or "float32")).eval()


def _find_base(folder: Path, base: ModelReference) -> Path:
    """The base at its recorded path, or beside the adapter if both were moved together."""
    recorded = Path(base.path)
    for path in (recorded, folder.resolve().parent / recorded.name):
        if path.is_dir() and weight_digests(Checkpoint(path)) == base.weights:
            return path
    problem = "has other weights" if recorded.is_dir() else "does not exist"
    raise CompatibilityError(
        f"{folder} is an adapter over {recorded}, which {problem}",
        hint="put that model there or beside the adapter; `sidtool merge` writes a model that "
        "needs no base",
    )
