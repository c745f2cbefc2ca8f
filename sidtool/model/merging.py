"""Merges LoRA adapters into their base model."""

from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.memory_binding import MEMORY_COPY
from sidtool.model.contract.read import read_contract
from sidtool.model.contract.stage_record import MergeParams, ModelReference, StageRecord
from sidtool.model.contract.write import write_contract
from sidtool.model.load import load_model_folder
from sidtool.model.pretrained import Dtype, save_pretrained


def merge(
    folder: str | Path, out: str | Path, *, dtype: Dtype = "float32", force: bool = False
) -> ModelReference:
    """Write the adapter model in `folder` as a model that needs no base; returns that base.

    Raises UsageError if `folder` has no adapters or `out` exists without `force`,
    MissingPackageError without the packages of models, else as `load_model_folder`.

    Examples:
        >>> chosen = {"options": sidtool.TrainOptions(stage="lora", lora_r=2)}
        >>> chosen["sft_fields"] = {"max_steps": 1, "eval_strategy": "no"}
        >>> _ = sidtool.train("base+sid", "train.jsonl", "adapters", **chosen)
        >>> _ = sidtool.merge("adapters", "merged")
        >>> sidtool.load_model_folder("merged").contract.stages[-1].stage
        'merge'
    """
    folder = model_folder(folder)
    out = Path(out)
    base = check_merge(folder, out, force=force)
    loaded = load_model_folder(folder, device="cpu", dtype=dtype)
    record = StageRecord("merge", MergeParams(base))
    # merging changes nothing that the model computes, so its memory stays
    memory = loaded.contract.memory
    contract = loaded.contract.with_stage(record, base_folder=None, memory=memory)
    with new_dir(out, force=force) as target:
        save_pretrained(target, loaded.model, loaded.tokenizer)
        if loaded.memory is not None:
            loaded.memory.memory.save(target / MEMORY_COPY)
        write_contract(target, contract, loaded.bundle)
    return base


def check_merge(folder: str | Path, out: Path, *, force: bool = False) -> ModelReference:
    """The base of the adapters in `folder`; raises what `merge` refuses before it loads them."""
    refuse_existing(out, force, FOLDER)
    folder = model_folder(folder)
    base = read_contract(folder).base_folder
    if base is None:
        raise UsageError(f"{folder} has no adapters to merge: it is a whole model")
    require("models")
    return base
