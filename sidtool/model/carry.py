"""Carries a trained model over to a retrained codebook: new embedding rows out of trained ones."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.output import new_dir
from sidtool.model.contract.compat import Verdict, check_bundle
from sidtool.model.contract.folder import model_folder, read_contract, write_contract
from sidtool.model.contract.stage_record import RebindParams, StageRecord
from sidtool.model.embedding_init import EmbeddingStatistics, initial_embeddings
from sidtool.model.load import load_model_folder
from sidtool.model.pretrained import save_pretrained
from sidtool.model.prompt.tokens import NO_TOKEN, SidTokens
from sidtool.model.structure import vocabulary_weights
from sidtool.tokenizer import common_codes
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import Codes, SidSpace

Rows = NDArray[np.float32]
"""(tokens, width): the embedding rows of a SID vocabulary, in token order."""


def carry_model(
    folder: str | Path,
    bundle: Bundle,
    out: str | Path,
    *,
    seed: int = 0,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Verdict:
    """Write the model in `folder` with `bundle` inside, and embedding rows for its codes.

    A code's row is the mean of the old codes' rows, weighted by how many of the code's items had
    them (`carried_rows`); a code without such items is initialized as `extend-model` does. Raises
    CompatibilityError unless the model may use the bundle, UsageError for an adapter model or an
    output that exists without `force`."""
    folder = model_folder(folder)
    if read_contract(folder).base_folder is not None:
        raise UsageError(
            f"{folder} has adapters, whose base cannot be changed",
            hint="sidtool merge writes a whole model",
        )
    loaded = load_model_folder(
        folder, device="cpu", dtype="float32", trust_remote_code=trust_remote_code
    )
    verdict = check_bundle(loaded.bundle, bundle)
    if verdict.kind == "aligned":
        _carry_embeddings(loaded.model, loaded.tokens, loaded.bundle, bundle, seed)
    params = RebindParams(loaded.contract.identity.digest, verdict.kind, verdict.reassigned_share)
    carried = loaded.contract.with_stage(StageRecord("rebind", params), identity=bundle.identity)
    with new_dir(Path(out), force=force) as target:
        save_pretrained(target, loaded.model, loaded.tokenizer)
        write_contract(target, carried, bundle)
    return verdict


def _carry_embeddings(
    model: object, tokens: SidTokens, old: Bundle, new: Bundle, seed: int
) -> None:
    """Replace the SID rows of embeddings and output head, in place."""
    import torch

    old_codes, new_codes = common_codes(old, new)
    learned = ~tokens.lacking(old_codes)
    old_codes = old_codes[learned]
    new_codes = new_codes[learned]
    used = np.flatnonzero(tokens.token_ids != NO_TOKEN)
    ids = tokens.token_ids[used]
    for weight in vocabulary_weights(model):
        trained = weight[ids].detach().numpy()  # (tokens, width)
        statistics = EmbeddingStatistics.of(trained)
        rows = np.zeros((len(tokens.token_ids), trained.shape[1]), dtype=np.float32)
        rows[used] = trained
        # the existing rows are those of SIDs, whose lengths the new ones take as they are
        initial = initial_embeddings(new.space, new.codebook, "codebook", statistics, seed, scale=1)
        carried = carried_rows(rows, initial, old_codes, new_codes, new.space)
        with torch.no_grad():
            weight[ids] = torch.from_numpy(carried[used])


def carried_rows(
    rows: Rows, initial: Rows, old_codes: Codes, new_codes: Codes, space: SidSpace
) -> Rows:
    """The embedding rows of a new codebook from those of an old one with the same sizes.

    `old_codes` and `new_codes` are the codes (n, levels) of common items. Begin and end tokens
    keep their rows. A mean is shorter than the rows that it is made of, and is scaled back to their
    mean length."""
    carried = rows.copy()
    for level, (start, size) in enumerate(zip(space.offsets.tolist(), space.sizes, strict=True)):
        counts = np.zeros((size, size), dtype=np.float32)  # (new, old) common items
        np.add.at(counts, (new_codes[:, level], old_codes[:, level]), 1)
        totals = counts.sum(axis=1, keepdims=True)  # (new, 1)
        weights = counts / np.maximum(totals, 1)
        old_rows = rows[start : start + size]
        means = weights @ old_rows
        lengths = weights @ np.linalg.norm(old_rows, axis=1, keepdims=True)
        mean_lengths = np.linalg.norm(means, axis=1, keepdims=True)
        scaled = means * (lengths / np.maximum(mean_lengths, 1e-12))
        carried[start : start + size] = np.where(totals > 0, scaled, initial[start : start + size])
    return carried
