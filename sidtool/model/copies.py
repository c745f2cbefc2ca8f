"""Copies of model folders: with a newer bundle or another memory, with LoRA adapters merged, with
contract and bundle restored after another program saved the model, or carried over to a retrained
codebook, with new embedding rows out of trained ones."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sidtool.base.checkpoint import check_finite_files, weight_digests
from sidtool.base.errors import CompatibilityError, DataError, RefusedError, UsageError
from sidtool.base.extras import require
from sidtool.base.inputs import keeps_inputs
from sidtool.base.locations import opened
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.memory import Memory
from sidtool.memory.mixture import MemoryIndex
from sidtool.model.contract.compat import Verdict, check_bundle
from sidtool.model.contract.contract import CONTRACT, MEMORY_COPY, Contract, MemoryBinding
from sidtool.model.contract.folder import (
    copy_files,
    copy_model,
    model_folder,
    read_contract,
    read_embedded,
    refuse_base_as_output,
    write_contract,
)
from sidtool.model.contract.stage_record import (
    MergeParams,
    ModelReference,
    RebindParams,
    RestoreParams,
    StageRecord,
)
from sidtool.model.extend import EmbeddingStatistics, Matrix, initial_embeddings
from sidtool.model.load import LoadedModel, check_model_folder, load_model_folder
from sidtool.model.network.structure import vocabulary_weights
from sidtool.model.pretrained import Dtype, save_pretrained
from sidtool.model.vocabulary.tokens import NO_TOKEN
from sidtool.tokenizer import check_alignable, common_codes
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import Codes, SidSpace

TRAINING_STATE = (
    *("checkpoint-*", "global_step*", "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*"),
    *("trainer_state.json", "training_args.bin"),
)
"""What trainers of other programs write beside a model, to continue."""


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


@keeps_inputs("a model")
def rebind(
    folder: str | Path,
    bundle: Bundle | str | Path,
    out: str | Path,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Verdict:
    """Write a copy of the model in `folder` with `bundle`, a value or where it is, inside;
    returns the verdict on it. A dry run loads no weights and writes nothing.

    Weights and tokenizer are copied unchanged; the contract records the replacement as a stage. A
    model that another program saved gets its contract and the bundle that it was made for back; its
    memory is not restored, whose weight was tuned for other weights. Raises CompatibilityError or
    IntegrityError unless model and bundle belong together, DataError if weights are not finite or a
    tokenizer is missing, UsageError if `out` exists without `force`; an aligned bundle is a
    SidtoolWarning.

    Examples:
        >>> newer = sidtool.add_items(sidtool.open_bundle("shop.zarr"), remove=["b007"])
        >>> sidtool.rebind("tuned", newer, "rebound").kind
        'refreshed'
    """
    out = Path(out)
    refuse_existing(out, force, FOLDER)
    require("models")
    bundle = opened(bundle, "open_source")
    folder = model_folder(folder)
    embedded = None if (folder / CONTRACT).exists() else read_embedded(folder)
    if embedded is not None:
        restored, verdict = _restored(folder, embedded, bundle)
        if not dry_run:
            with new_dir(out, force=force) as target:
                copy_files(folder, target, *TRAINING_STATE)
                write_contract(target, restored, bundle)
                load_model_folder(target, device="cpu", dtype="float32")
        return verdict
    contract, bundle, verdict = check_model_folder(folder, bundle)
    if contract.memory is not None:  # can the bundle have it?
        memory = Memory.open_verified(folder / MEMORY_COPY)
        try:
            MemoryIndex.of(memory, bundle)
        except CompatibilityError as error:  # rebind takes no other memory
            hint = "sidtool refresh leaves the memory out; then build-memory and tune-memory"
            raise CompatibilityError(str(error), hint=hint) from error
    refuse_base_as_output(out, contract)
    if dry_run:
        return verdict
    check_finite_files(folder)
    rebound = _rebound(contract, bundle, verdict, memory=contract.memory)
    with new_dir(out, force=force) as target:
        copy_model(folder, contract, target)
        write_contract(target, rebound, bundle)
    return verdict


def _rebound(
    contract: Contract,
    bundle: Bundle,
    verdict: Verdict,
    *,
    memory: MemoryBinding | None = None,
    refresh_share: float | None = None,
) -> Contract:
    """The contract of a model with another bundle inside."""
    previous, share = contract.identity.digest, verdict.reassigned_share
    record = StageRecord("rebind", RebindParams(previous, verdict.kind, share, refresh_share))
    return contract.with_stage(record, identity=bundle.identity, memory=memory)


def _restored(folder: Path, contract: Contract, bundle: Bundle) -> tuple[Contract, Verdict]:
    """The contract to restore, and what is said of it; refuses what cannot be restored."""
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
    message = "contract and bundle restored; the weights are those that sidtool wrote"
    if stored != weights:
        message = "contract and bundle restored; what another program trained it on is not recorded"
    restored = contract.with_stage(StageRecord("restore", RestoreParams(stored != weights)))
    return restored, Verdict("same", message)


@keeps_inputs("a model")
def merge(
    folder: str | Path,
    out: str | Path,
    *,
    dtype: Dtype = "float32",
    dry_run: bool = False,
    force: bool = False,
) -> ModelReference:
    """Write the adapter model in `folder` as a model that needs no base; returns that base. A dry
    run loads and writes nothing.

    Raises UsageError if `folder` has no adapters or `out` exists without `force` or is their base,
    MissingPackageError without the packages of models, else as `load_model_folder`.

    Examples:
        >>> chosen = {"options": sidtool.TrainOptions(stage="lora", lora_r=2)}
        >>> chosen["sft_fields"] = {"max_steps": 1, "eval_strategy": "no"}
        >>> _ = sidtool.train("base+sid", "train.jsonl", "adapters", **chosen)
        >>> _ = sidtool.merge("adapters", "merged")
        >>> sidtool.load_model_folder("merged").contract.stages[-1].stage
        'merge'
    """
    out = Path(out)
    refuse_existing(out, force, FOLDER)
    folder = model_folder(folder)
    contract = read_contract(folder)
    base = contract.base_folder
    if base is None:
        raise UsageError(f"{folder} has no adapters to merge: it is a whole model")
    if out.resolve() != folder.resolve():  # the adapters stay, and need their base
        refuse_base_as_output(out, contract)
    require("models")
    if dry_run:
        return base
    loaded = load_model_folder(folder, device="cpu", dtype=dtype)
    record = StageRecord("merge", MergeParams(base))
    # merging changes nothing that the model computes, so its memory stays
    contract = loaded.contract.with_stage(record, base_folder=None, memory=loaded.contract.memory)
    with new_dir(out, force=force) as target:
        save_pretrained(target, loaded.model, loaded.tokenizer)
        if loaded.memory is not None:
            loaded.memory.memory.save(target / MEMORY_COPY)
        write_contract(target, contract, loaded.bundle)
    return base


def bind_memory(
    folder: str | Path,
    memory: Memory,
    binding: MemoryBinding,
    out: str | Path,
    *,
    tuned_with: Contract | None = None,
    force: bool = False,
) -> None:
    """Write a copy of the model in `folder` with a memory and its weight in the contract; weights
    and tokenizer are copied unchanged.

    Raises CompatibilityError if the memory is of another bundle, or the model is not the one with
    which it was tuned, UsageError if `out` exists without `force`."""
    folder = model_folder(folder)
    contract, bundle, _ = check_model_folder(folder)
    if tuned_with is not None and contract != tuned_with:
        raise CompatibilityError(f"{folder} has another model now than when the command began")
    memory.check_bundle(bundle)
    refuse_base_as_output(Path(out), contract)
    with new_dir(Path(out), force=force) as target:
        copy_model(folder, contract, target)
        memory.save(target / MEMORY_COPY, force=True)
        write_contract(target, replace(contract, memory=binding), bundle)


def carry_model(
    folder: str | Path,
    bundle: Bundle,
    out: str | Path,
    *,
    seed: int = 0,
    refresh_share: float | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Verdict:
    """Write the model in `folder` with `bundle` inside, and embedding rows for its codes;
    `refresh_share` is recorded.

    A code's row is the mean of the old codes' rows, weighted by how many of the code's items had
    them (`carried_rows`); a code without such items is initialized as `extend-model` does. Raises
    CompatibilityError unless the model, which is a whole one, may use the bundle, UsageError if
    `out` exists without `force`."""
    folder = model_folder(folder)
    loaded = load_model_folder(
        folder, device="cpu", dtype="float32", trust_remote_code=trust_remote_code
    )
    verdict = check_bundle(loaded.bundle, bundle)
    if verdict.kind == "aligned":
        _carry_embeddings(loaded, bundle, seed)
    with new_dir(Path(out), force=force) as target:
        save_pretrained(target, loaded.model, loaded.tokenizer)
        rebound = _rebound(loaded.contract, bundle, verdict, refresh_share=refresh_share)
        write_contract(target, rebound, bundle)
    return verdict


def _carry_embeddings(loaded: LoadedModel, new: Bundle, seed: int) -> None:
    """Replace the SID rows of embeddings and output head, in place."""
    import torch

    tokens = loaded.tokens
    old_codes, new_codes = common_codes(loaded.bundle, new)
    learned = ~tokens.lacking(old_codes)
    used = np.flatnonzero(tokens.token_ids != NO_TOKEN)
    ids = tokens.token_ids[used]
    for weight in vocabulary_weights(loaded.model):
        trained = weight[ids].detach().numpy()  # (tokens, width)
        statistics = EmbeddingStatistics.of(trained)
        rows = np.zeros((len(tokens.token_ids), trained.shape[1]), dtype=np.float32)
        rows[used] = trained
        # the existing rows are those of SIDs, whose lengths the new ones take as they are
        initial = initial_embeddings(new.space, new.codebook, "codebook", statistics, seed, scale=1)
        carried = carried_rows(rows, initial, old_codes[learned], new_codes[learned], new.space)
        with torch.no_grad():
            weight[ids] = torch.from_numpy(carried[used])


def carried_rows(
    rows: Matrix, initial: Matrix, old_codes: Codes, new_codes: Codes, space: SidSpace
) -> Matrix:
    """The embedding rows of a new codebook, in token order, from those of an old one with the same
    sizes.

    `old_codes` and `new_codes` are the codes (n, levels) of common items. Begin and end tokens
    keep their rows. A mean is shorter than the rows that it is made of, and is scaled back to their
    mean length."""
    carried = rows.copy()
    for level, (start, size) in enumerate(zip(space.offsets.tolist(), space.sizes, strict=True)):
        counts = np.zeros((size, size), dtype=np.float32)  # (new, old) common items
        np.add.at(counts, (new_codes[:, level], old_codes[:, level]), 1)
        totals = counts.sum(axis=1, keepdims=True)  # (new, 1)
        weights = counts / np.maximum(totals, 1)
        span = slice(start, start + size)
        old_rows = rows[span]
        means = weights @ old_rows
        lengths = weights @ np.linalg.norm(old_rows, axis=1, keepdims=True)
        mean_lengths = np.linalg.norm(means, axis=1, keepdims=True)
        scaled = means * (lengths / np.maximum(mean_lengths, 1e-12))
        carried[span] = np.where(totals > 0, scaled, initial[span])
    return carried
