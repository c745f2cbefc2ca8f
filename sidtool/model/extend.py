"""Add a SID vocabulary to a language model, causal or encoder-decoder: tokens, embedding rows and
the contract.

The result is an ordinary model folder that other tools load, with `sid.json` and `sid.zarr` in
addition."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sidtool.base.checkpoint.files import CONFIG
from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.extras import require
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.model.contract.card import check_license
from sidtool.model.contract.contract import CONTRACT, Contract
from sidtool.model.contract.embedded import embedded_contract
from sidtool.model.contract.stage_record import ExtendParams, StageRecord
from sidtool.model.contract.write import write_contract
from sidtool.model.embedding_init import (
    EmbeddingStatistics,
    Init,
    Matrix,
    initial_embeddings,
    random_embeddings,
)
from sidtool.model.extend_options import ExtendOptions
from sidtool.model.pretrained import (
    Checkpoint,
    file_digests,
    load_model,
    load_tokenizer,
    locate,
    save_pretrained,
    weight_digests,
)
from sidtool.model.prompt.field_tokens import FieldTokens, UserTokens
from sidtool.model.prompt.tokens import SidTokens
from sidtool.model.structure import (
    decoder_start_id,
    grow_vocabulary,
    is_encoder_decoder,
    logits_bias,
    model_kind,
    vocabulary_weights,
)
from sidtool.model.vocabulary import (
    add_block,
    add_sid_tokens,
    check_block,
    check_embedding_rows,
    check_token_ids,
)
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap


def extend_model(
    model: str | Path,
    bundle: Bundle,
    out: str | Path,
    options: ExtendOptions | None = None,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Contract:
    """Write `model` with the bundle's tokens to folder `out`.

    `model` is a folder, a .gguf file or `hf://ORG/NAME`. `field_tokens` of the options are values
    of fields, as texts: {"user.age": ("18", "25")}.

    Raises UsageError if `out` exists without `force` or the bundle lacks what `init` needs (a
    codebook, titles), DataError if the model cannot be loaded, RefusedError if it needs
    `trust_remote_code`, CompatibilityError if it has a SID vocabulary already, IntegrityError if
    the bundle is damaged.

    Examples:
        >>> contract = sidtool.extend_model("base", sidtool.open_bundle("shop.zarr"), "extended")
        >>> contract.base_model, contract.space.sizes
        ('base', (4, 4, 8))
    """
    model = str(model)
    out = Path(out)
    options = options or ExtendOptions()
    check_extension(bundle, out, options, force=force)
    checkpoint = locate_base(model, revision=options.revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    tokens = add_sid_tokens(tokenizer, bundle.space)
    users = UserTokens(tokens.stop, options.user_tokens)
    fields = FieldTokens(users.stop, options.field_tokens)
    add_block(tokenizer, users, "--user-tokens")
    add_block(tokenizer, fields, "--field-token")
    network = load_model(checkpoint, dtype=options.dtype, trust_remote_code=trust_remote_code)
    rows = InitialRows(bundle, tokenizer, tokens, options.init, options.init_scale, options.seed)
    write_embeddings(network, rows, options.user_tokens + fields.number)
    network.generation_config = greedy_generation(network, tokenizer)
    made = ExtendParams(options.init, options.seed, options.init_scale)
    contract = Contract(
        identity=bundle.identity,
        space=bundle.space,
        token_start=tokens.start,
        base_model=model,
        base_revision=checkpoint.revision,
        base_weights=weight_digests(checkpoint),
        base_files=file_digests(checkpoint),
        kind=model_kind(network.config),
        user_tokens=options.user_tokens,
        field_tokens=options.field_tokens,
        stages=(StageRecord("extend", made),),
        license=options.license,
    )
    with new_dir(out, force=force) as folder:
        save_pretrained(folder, network, tokenizer)
        # a tokenizer may number its tokens differently once it is saved and loaded
        reloaded = load_tokenizer(Checkpoint(folder), trust_remote_code=trust_remote_code)
        check_token_ids(reloaded, tokens)
        check_block(reloaded, contract.users)
        check_block(reloaded, contract.fields)
        return write_contract(folder, contract, bundle)


def check_extension(
    bundle: Bundle, out: Path, options: ExtendOptions, *, force: bool = False
) -> None:
    """Raise what `extend_model` refuses before it looks for the model."""
    FieldTokens(0, options.field_tokens)  # raises UsageError
    check_init(bundle, options.init)
    check_license(options.license or "unknown")
    refuse_existing(out, force, FOLDER)
    require("models")


def locate_base(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Find a model, as `locate` does. Raises CompatibilityError if it has a SID vocabulary."""
    checkpoint = locate(model, revision=revision, trust_remote_code=trust_remote_code)
    for name, has_contract in (
        (CONTRACT, (checkpoint.folder / CONTRACT).exists()),
        (CONFIG, embedded_contract(checkpoint.folder) is not None),
    ):
        if has_contract:
            raise CompatibilityError(
                f"{model} has a SID vocabulary already ({name})",
                hint="extend the base model that it was made from",
            )
    return checkpoint


@dataclass(frozen=True, eq=False)
class InitialRows:
    """How the first rows of SID tokens are made for any matrix of a model."""

    bundle: Bundle
    tokenizer: Any
    tokens: SidTokens
    init: Init
    scale: float
    seed: int

    def of(self, existing: Matrix) -> Matrix:
        """(tokens, width) float32 rows beside existing ones, (n, width)."""
        text_points: list[Matrix] = []
        if self.init == "text":
            titles = title_tokens(self.bundle.items, self.tokenizer, len(existing))
            text_points = level_points(self.bundle, titles, existing)
        return initial_embeddings(
            self.tokens.space,
            self.bundle.codebook,
            self.init,
            EmbeddingStatistics.of(existing),
            self.seed,
            scale=self.scale,
            text_points=text_points,
        )


def write_embeddings(network: Any, initial: InitialRows, more_tokens: int = 0) -> None:
    """Initialize the rows of SID tokens in all embeddings and in an untied output head, in place,
    and those of `more_tokens` behind them at random.

    The matrices grow only if the tokens do not fit and never shrink: rows that a checkpoint has as
    padding are overwritten."""
    import torch

    tokens = initial.tokens
    n_rows = network.get_input_embeddings().weight.shape[0]
    # a tokenizer can have tokens that the checkpoint has no row for
    n_existing = min(n_rows, tokens.start)
    stop = tokens.stop + more_tokens
    if n_rows < stop:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(initial.seed)
            grow_vocabulary(network, stop)
    check_embedding_rows(network, stop)
    sid_rows = slice(tokens.start, tokens.stop)
    more_rows = slice(tokens.stop, stop)
    with torch.no_grad():
        for weight in vocabulary_weights(network):
            existing = weight[:n_existing].float().numpy()
            rows = initial.of(existing)
            weight[sid_rows] = torch.from_numpy(rows).to(weight.dtype)
            statistics = EmbeddingStatistics.of(existing)
            rows = random_embeddings(more_tokens, statistics, initial.seed)
            weight[more_rows] = torch.from_numpy(rows).to(weight.dtype)
        bias = logits_bias(network)
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


def check_init(bundle: Bundle, init: Init) -> None:
    """Raise UsageError if the bundle lacks what `init` makes rows from."""
    if init == "codebook" and bundle.codebook is None:
        raise UsageError(
            f"bundle {bundle.manifest.name!r} has no codebook to initialize embedding rows from",
            hint="--init random needs none",
        )
    if init == "text" and bundle.items.titles is None:
        raise UsageError(
            f"bundle {bundle.manifest.name!r} has no titles to initialize embedding rows from",
            hint="--init codebook or random needs none",
        )


BATCH = 1 << 14
"""Texts that are tokenized at a time."""


def title_tokens(items: ItemMap, tokenizer: Any, n_rows: int) -> csr_matrix:
    """(items, n_rows) float32: how often each token with an embedding row occurs in the title of
    each item, divided by the title's length. Rows of items without a title are zero."""
    indexes: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    lengths: list[int] = []
    for titles in _batches(items):
        encoded = tokenizer(titles, add_special_tokens=False, verbose=False)["input_ids"]
        for ids in encoded:
            with_row = np.array([token for token in ids if token < n_rows], dtype=np.int64)
            indexes.append(with_row)
            lengths.append(len(with_row))
    shares = 1 / np.maximum(np.repeat(lengths, lengths), 1)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    columns = np.concatenate(indexes)
    return csr_matrix((shares.astype(np.float32), columns, pointers), (len(items), n_rows))


def level_points(bundle: Bundle, tokens: csr_matrix, rows: Matrix) -> list[Matrix]:
    """Per level, (codes, width) float32: the mean over a code's active items of the mean embedding
    row of their titles' tokens. A code without items is the mean of its level.

    `tokens` are those of `title_tokens`, `rows` (n_rows, width) the existing embedding rows."""
    active = bundle.active
    titles = tokens[active]  # (active, n_rows)
    has_title = np.diff(titles.indptr) > 0
    titles = titles[has_title]
    codes = bundle.items.codes[active][has_title]
    points = []
    for level, size in enumerate(bundle.space.sizes):
        places = (codes[:, level].astype(np.int64), np.arange(len(codes)))
        members = csr_matrix((np.ones(len(codes), np.float32), places), (size, len(codes)))
        counts = np.asarray(members.sum(axis=1), dtype=np.float32)  # (codes, 1)
        means = (members @ titles) @ rows / np.maximum(counts, 1)
        empty = counts[:, 0] == 0
        means[empty] = means[~empty].mean(axis=0)
        points.append(means.astype(np.float32))
    return points


def _batches(items: ItemMap) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), BATCH):
        stop = min(start + BATCH, len(items))
        yield [items.title(row) for row in range(start, stop)]
