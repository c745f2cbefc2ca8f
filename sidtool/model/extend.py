"""Add a SID vocabulary to a language model, causal or encoder-decoder: tokens, embedding rows and
the contract.

The result is an ordinary model folder that other tools load, with `sid.json` and `sid.zarr` in
addition. Rows must differ from the start: a model whose new rows are all equal cannot rank SIDs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.checkpoint import CONFIG
from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.extras import require
from sidtool.base.inputs import keeps_inputs
from sidtool.base.locations import opened
from sidtool.base.options import MAX_SEED, check_options, option, options_from
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.model.contract.card import check_license
from sidtool.model.contract.contract import CONTRACT, Contract
from sidtool.model.contract.folder import read_embedded, write_contract
from sidtool.model.contract.stage_record import ExtendParams, StageRecord
from sidtool.model.network.structure import (
    check_embedding_rows,
    decoder_start_id,
    grow_vocabulary,
    is_encoder_decoder,
    model_kind,
    vocabulary_weights,
)
from sidtool.model.pretrained import (
    Checkpoint,
    Dtype,
    load_model,
    load_tokenizer,
    locate,
    save_pretrained,
)
from sidtool.model.prompt.segments import prompt_encoder
from sidtool.model.prompt.template_slots import as_shown, parse_field_tokens
from sidtool.model.vocabulary.tokenizer import add_block, add_sid_tokens, check_token_ids
from sidtool.model.vocabulary.tokens import (
    MAX_USER_TOKENS,
    FieldTokens,
    FieldValues,
    SidTokens,
    UserTokens,
)
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.quantize import Codebook, unit
from sidtool.tokenizer.sid import SidSpace

Init = Literal["codebook", "mean", "random"]
DEFAULT_SCALE = 1.0
"""Distance of new rows from the mean row, in distances of the existing rows."""

Matrix = NDArray[np.float32]
"""(n, width): one token per row."""

MEAN_NOISE = 0.1
"""`mean`: noise around the mean row, in standard deviations of the existing rows."""
TIE_NOISE = 0.1
"""`codebook`: share of a random direction in each row, so that the rows of equal centroids (empty
clusters) differ."""


@dataclass(frozen=True)
class EmbeddingStatistics:
    """Statistics of existing embedding rows."""

    mean: NDArray[np.float32]
    """(width,) float32"""
    deviation: NDArray[np.float32]
    """(width,) float32: standard deviation per dimension"""
    distance: float
    """mean distance of a row from the mean row"""
    distance_deviation: float
    """standard deviation of that distance"""

    @classmethod
    def of(cls, rows: Matrix) -> "EmbeddingStatistics":
        """Measure rows (n, width), n at least 1."""
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        distances = np.linalg.norm(rows - mean, axis=1)
        return cls(mean, rows.std(axis=0), float(distances.mean()), float(distances.std()))


def initial_embeddings(
    space: SidSpace,
    codebook: Codebook | None,
    init: Init,
    existing: EmbeddingStatistics,
    seed: int,
    *,
    scale: float = DEFAULT_SCALE,
) -> Matrix:
    """(len(space.tokens), width) float32 rows in token order, around the mean of existing rows.

    * `codebook`: the centered centroids of each level through one Gaussian random projection
      (Johnson and Lindenstrauss 1984) that all levels share, so that the rows of a SID add up to
      the projection of its item. Lengths keep their order within the level and are rescaled to the
      mean and deviation of the existing rows. Levels without centroids and begin/end tokens get
      random directions and the mean length.
    * `mean`: the mean of existing rows plus noise (`MEAN_NOISE`).
    * `random`: Gaussian with the mean and deviation of existing rows per dimension.

    `scale` multiplies the distance of all rows from the mean row. The same seed gives the same
    rows."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(space.tokens), len(existing.mean)), dtype=np.float32)
    if init == "mean":
        return existing.mean + scale * MEAN_NOISE * existing.deviation * noise
    if init == "random" or codebook is None:
        return existing.mean + scale * existing.deviation * noise
    dim = codebook.levels[0].shape[1]
    projection = rng.standard_normal((dim, len(existing.mean)), dtype=np.float32)
    projection = projection / np.float32(np.sqrt(dim))
    # random directions, which begin and end tokens and levels without centroids keep
    offsets = unit(noise) * existing.distance  # (tokens, width)
    for start, centroids in zip(space.offsets.tolist(), codebook.levels, strict=False):
        level = slice(start, start + len(centroids))
        projected = centroids @ projection
        points = projected - projected.mean(axis=0)  # (codes, width)
        lengths = np.linalg.norm(points, axis=1)  # (codes,)
        # the order of lengths stays; their mean and deviation become those of existing rows
        standardized = (lengths - lengths.mean()) / max(float(lengths.std()), 1e-12)
        target = existing.distance + existing.distance_deviation * standardized
        target = np.clip(target, 0.5 * existing.distance, 2 * existing.distance)
        directions = unit(unit(points) + TIE_NOISE * unit(noise[level]))
        offsets[level] = directions * target[:, None].astype(np.float32)
    return existing.mean + np.float32(scale) * offsets


@dataclass(frozen=True, kw_only=True)
class ExtendOptions:
    """Which tokens a model gets beside those of SIDs, and what their first rows are. Raises
    UsageError for a value out of range."""

    init: Init = option("codebook")
    """What the first embedding rows of SID tokens are made from: centroids of the codebook, noise
    around the mean row, or random rows."""
    init_scale: float = option(DEFAULT_SCALE, above=0)
    """How far new rows are from the mean row, in mean distances of the existing ones."""
    revision: str | None = option(None)
    """Revision of the model on the hub."""
    license: str | None = option(None)
    """License, for the card of the model and of those trained from it."""
    dtype: Dtype | None = option(None)
    """Precision to store. Default: the checkpoint's."""
    user_tokens: int = option(0, minimum=0, maximum=MAX_USER_TOKENS)
    """Tokens for users: a history begins with one of them, by the hash of its user's id. TIGER has
    2000."""
    field_tokens: FieldValues = option(
        dict, reads=parse_field_tokens, flag="--field-token", metavar="FIELD=VALUE,VALUE"
    )
    """Values of a field with tokens of their own, which templates show as {FIELD:token}:
    user.FIELD, context.FIELD, event.FIELD or feedback.FIELD with its values, or gap or ago alone.
    Repeatable."""
    seed: int = option(0, minimum=0, maximum=MAX_SEED)
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_options(self)
        FieldTokens.of(0, self.field_tokens)  # raises UsageError
        object.__setattr__(self, "field_tokens", as_shown(self.field_tokens))


@keeps_inputs("a model")
def extend_model(
    model: str | Path,
    bundle: Bundle | str | Path,
    out: str | Path,
    options: ExtendOptions | None = None,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
    **given: Any,
) -> Contract:
    """Write `model` with the bundle's tokens to folder `out`. The options may also be given as
    keywords.

    `model` is a folder, a .gguf file or `hf://ORG/NAME`; `bundle` is a value, a path, a URL or a
    reference. `field_tokens` of the options are values
    of fields, as texts: {"user.age": ("18", "25")}.

    Raises UsageError if `out` exists without `force`, the bundle lacks the codebook that `init`
    needs or the tokenizer is a slow one, DataError if the model cannot be loaded, RefusedError if
    it needs `trust_remote_code`, CompatibilityError if it has a SID vocabulary already,
    IntegrityError if the bundle is damaged.

    Examples:
        >>> contract = sidtool.extend_model("base", sidtool.open_bundle("shop.zarr"), "extended")
        >>> contract.base_model, contract.space.sizes
        ('base', (4, 4, 8))
    """
    model = str(model)
    out = Path(out)
    options = options_from(ExtendOptions, options, given)
    bundle = opened(bundle, "open_source")
    check_extension(bundle, out, options, force=force)
    checkpoint = locate_base(model, revision=options.revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    tokens = add_sid_tokens(tokenizer, bundle.space)
    prompt_encoder(tokenizer, tokens)  # raises UsageError for a tokenizer that no prompt can use
    users = UserTokens(tokens.stop, options.user_tokens)
    fields = FieldTokens.of(users.stop, options.field_tokens)
    add_block(tokenizer, users, "--user-tokens")
    add_block(tokenizer, fields, "--field-token")
    network = load_model(checkpoint, dtype=options.dtype, trust_remote_code=trust_remote_code)
    write_embeddings(network, bundle, tokens, options, options.user_tokens + fields.number)
    network.generation_config = greedy_generation(network, tokenizer)
    made = ExtendParams(options.init, options.seed, options.init_scale)
    contract = Contract(
        identity=bundle.identity,
        space=bundle.space,
        token_start=tokens.start,
        base_model=model,
        base_revision=checkpoint.revision,
        base_weights=checkpoint.weight_digests(),
        base_files=checkpoint.file_digests(),
        kind=model_kind(network.config),
        user_tokens=options.user_tokens,
        field_tokens=options.field_tokens,
        stages=(StageRecord("extend", made),),
        license=options.license or None,
    )
    with new_dir(out, force=force) as folder:
        save_pretrained(folder, network, tokenizer)
        # a tokenizer may number its tokens differently once it is saved and loaded
        reloaded = load_tokenizer(Checkpoint(folder), trust_remote_code=trust_remote_code)
        check_token_ids(reloaded, *contract.vocabularies)
        return write_contract(folder, contract, bundle)


def check_extension(
    bundle: Bundle, out: Path, options: ExtendOptions, *, force: bool = False
) -> None:
    """Raise what `extend_model` refuses before it looks for the model."""
    FieldTokens.of(0, options.field_tokens)  # raises UsageError: "4.0" and "4" are one value
    if options.init == "codebook" and bundle.codebook is None:
        raise UsageError(
            f"bundle {bundle.manifest.name!r} has no codebook to initialize embedding rows from",
            hint="--init random needs none",
        )
    check_license(options.license or "unknown")
    refuse_existing(out, force, FOLDER)
    require("models")


def locate_base(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Find a model, as `locate` does. Raises CompatibilityError if it has a SID vocabulary."""
    checkpoint = locate(model, revision=revision, trust_remote_code=trust_remote_code)
    has_contract = (checkpoint.folder / CONTRACT).exists()
    if has_contract or read_embedded(checkpoint.folder) is not None:
        raise CompatibilityError(
            f"{model} has a SID vocabulary already ({CONTRACT if has_contract else CONFIG})",
            hint="extend the base model that it was made from"
            if has_contract
            else f"sidtool rebind {model} BUNDLE -o NEW restores its contract",
        )
    return checkpoint


def write_embeddings(
    network: Any, bundle: Bundle, tokens: SidTokens, options: ExtendOptions, more_tokens: int = 0
) -> None:
    """Initialize the rows of SID tokens in all embeddings and in an untied output head, in place,
    and those of `more_tokens` behind them at random.

    The matrices grow only if the tokens do not fit and never shrink: rows that a checkpoint has as
    padding are overwritten."""
    import torch

    n_rows = network.get_input_embeddings().weight.shape[0]
    # a tokenizer can have tokens that the checkpoint has no row for
    n_existing = min(n_rows, tokens.start)
    stop = tokens.stop + more_tokens
    if n_rows < stop:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            grow_vocabulary(network, stop)
    check_embedding_rows(network, stop)
    sid_rows = slice(tokens.start, tokens.stop)
    more_rows = slice(tokens.stop, stop)
    with torch.no_grad():
        for weight in vocabulary_weights(network):
            existing = weight[:n_existing].float().numpy()
            statistics = EmbeddingStatistics.of(existing)
            rows = initial_embeddings(
                tokens.space,
                bundle.codebook,
                options.init,
                statistics,
                options.seed,
                scale=options.init_scale,
            )
            weight[sid_rows] = torch.from_numpy(rows).to(weight.dtype)
            rng = np.random.default_rng([options.seed, more_tokens])
            shape = (more_tokens, len(statistics.mean))
            noise = rng.standard_normal(shape, dtype=np.float32)
            rows = statistics.mean + statistics.deviation * noise
            weight[more_rows] = torch.from_numpy(rows).to(weight.dtype)
        # of the head, or BART's own buffer, (..., rows)
        bias = getattr(network.get_output_embeddings(), "bias", None)
        bias = getattr(network, "final_logits_bias", None) if bias is None else bias
        if bias is not None:
            bias[..., tokens.start : stop] = bias[..., :n_existing].mean()


def greedy_generation(network: Any, tokenizer: Any) -> Any:
    """A generation config with the model's special token ids and greedy decoding.

    The config of an instruct model samples with `top_k`, `top_p` or `repetition_penalty`, which
    would remove valid SID tokens."""
    from transformers import GenerationConfig

    config = network.generation_config or GenerationConfig()
    ids = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token_id = getattr(config, name, None)
        ids[name] = token_id if token_id is not None else getattr(tokenizer, name)
    if is_encoder_decoder(network):
        ids["decoder_start_token_id"] = decoder_start_id(network)
    return GenerationConfig(do_sample=False, num_beams=1, **ids)
