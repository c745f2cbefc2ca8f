"""Writes a copy of a model folder with a memory in it."""

from dataclasses import replace
from pathlib import Path

from sidtool.base.output import new_dir
from sidtool.memory.memory import Memory
from sidtool.model.contract.bases import refuse_base_as_output
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.memory_binding import MEMORY_COPY, MemoryBinding
from sidtool.model.contract.write import copy_model, write_contract
from sidtool.model.load import check_model_folder


def bind_memory(
    folder: str | Path,
    memory: Memory,
    binding: MemoryBinding,
    out: str | Path,
    *,
    force: bool = False,
) -> None:
    """Write a copy of the model in `folder` with a memory and its weight in the contract; weights
    and tokenizer are copied unchanged.

    Raises CompatibilityError if the memory is of another bundle, UsageError if `out` exists without
    `force`."""
    folder = model_folder(folder)
    contract, bundle, _ = check_model_folder(folder)
    memory.check_bundle(bundle)
    refuse_base_as_output(Path(out), contract)
    with new_dir(Path(out), force=force) as target:
        copy_model(folder, contract, target)
        memory.save(target / MEMORY_COPY, force=True)
        write_contract(target, replace(contract, memory=binding), bundle)
