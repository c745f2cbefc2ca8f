"""Teach any causal language model the words of a space: tokens, rows, a sane generation config, and
the contract.

Knows checkpoints and bundles; knows nothing of training. What it writes is an ordinary model folder
that any tool of the ecosystem loads, plus `sid.json` and `sid.zarr`."""

from pathlib import Path
from typing import Any

from sidtool.bundle.bundle import Bundle
from sidtool.errors import CompatibilityError, UsageError
from sidtool.model.contract import CONTRACT, Contract, write_contract
from sidtool.model.embedding_init import (
    DEFAULT_INIT,
    INITS,
    EmbeddingStatistics,
    Init,
    initial_embeddings,
)
from sidtool.model.pretrained import (
    Checkpoint,
    check_dtype,
    load_model,
    load_tokenizer,
    locate,
    save_pretrained,
    weight_digests,
)
from sidtool.model.vocabulary import add_sid_tokens, check_embedding_rows, check_token_ids
from sidtool.output import new_dir, refuse_existing
from sidtool.prompt.tokens import SidTokens


def extend(
    model: str,
    bundle: Bundle,
    out: Path,
    *,
    init: Init = DEFAULT_INIT,
    seed: int = 0,
    revision: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Contract:
    """Write `model` (a hub id, a folder or a .gguf file) with the bundle's tokens to the folder
    `out`.

    Its dtype stays the checkpoint's unless `dtype` names another. Raises UsageError if `out` exists
    without `force` or if there is no codebook for `init="codebook"`, DataError if the model cannot
    be had, RefusedError if it would need `trust_remote_code`, CompatibilityError if it speaks
    semantic IDs already."""
    check_request(bundle, init, dtype)
    refuse_existing(out, force)
    checkpoint = locate(model, revision=revision, trust_remote_code=trust_remote_code)
    if (checkpoint.folder / CONTRACT).exists():
        raise CompatibilityError(
            f"{model} speaks semantic IDs already ({CONTRACT})",
            hint="extend the base it was made from",
        )
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    tokens = add_sid_tokens(tokenizer, bundle.space)
    network = load_model(checkpoint, dtype=dtype, trust_remote_code=trust_remote_code)
    write_embeddings(network, tokens, bundle, init, seed)
    network.generation_config = plain_generation(network, tokenizer)
    contract = Contract(
        identity=bundle.identity,
        space=bundle.space,
        token_start=tokens.start,
        base_model=model,
        base_revision=checkpoint.revision,
        base_weights=weight_digests(checkpoint),
        stage="extended",
        params={"init": init, "seed": seed},
    )
    with new_dir(out, force=force) as folder:
        save_pretrained(folder, network, tokenizer)
        check_token_ids(
            load_tokenizer(Checkpoint(folder), trust_remote_code=trust_remote_code), tokens
        )
        write_contract(folder, contract, bundle)
    return contract


def write_embeddings(
    network: Any, tokens: SidTokens, bundle: Bundle, init: Init, seed: int
) -> None:
    """Give the block its first rows, in the embeddings and, where it is a matrix of its own, in the
    output head.

    The matrices grow only if the block does not fit, and never shrink: rows that a checkpoint
    padded are overwritten."""
    import torch

    had = network.get_input_embeddings().weight.shape[0]
    known = min(had, tokens.start)  # a tokenizer can have tokens that the checkpoint has no row for
    if had < tokens.stop:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network.resize_token_embeddings(tokens.stop, mean_resizing=False)
    check_embedding_rows(network, tokens)
    embeddings, head = network.get_input_embeddings(), network.get_output_embeddings()
    layers = [embeddings] if head.weight is embeddings.weight else [embeddings, head]
    with torch.no_grad():
        for layer in layers:
            like = EmbeddingStatistics.of(layer.weight[:known].float().numpy())
            rows = initial_embeddings(tokens.space, bundle.codebook, init, like, seed)
            layer.weight[tokens.start : tokens.stop] = torch.from_numpy(rows).to(layer.weight.dtype)
        if getattr(head, "bias", None) is not None:
            head.bias[tokens.start : tokens.stop] = head.bias[:known].mean()


def plain_generation(network: Any, tokenizer: Any) -> Any:
    """A generation config with the model's own token ids and nothing else.

    An instruct model's carries a sampler (`top_k`, `top_p`, `repetition_penalty`) whose warpers
    prune legal tokens."""
    from transformers import GenerationConfig

    own = network.generation_config or GenerationConfig()
    ids = {
        name: getattr(own, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    ids = {
        name: value if value is not None else getattr(tokenizer, name)
        for name, value in ids.items()
    }
    return GenerationConfig(do_sample=False, num_beams=1, **ids)


def check_request(bundle: Bundle, init: Init, dtype: str | None) -> None:
    """Raise UsageError for first values or a precision that there are not, or that this bundle
    cannot give."""
    check_dtype(dtype)
    if init not in INITS:
        raise UsageError(f"init is one of {', '.join(INITS)}, not {init!r}")
    if init == "codebook" and bundle.codebook is None:
        raise UsageError(
            f"bundle {bundle.manifest.name!r} has no codebook to make rows from",
            hint="--init random needs none",
        )
