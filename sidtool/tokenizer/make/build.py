"""Building a bundle: embed the catalog, fit a codebook, resolve collisions, measure, record.

An interrupted build leaves `OUT.partial` with finished vectors and codes, and the same command
resumes from there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError, UsageError
from sidtool.base.options import options_from
from sidtool.base.output import locked, publish, refuse_existing, remove
from sidtool.base.output_name import BUNDLE
from sidtool.base.progress import Progress
from sidtool.data import Items, Vectors, VectorSource, open_vectors
from sidtool.data.split import Split, open_split
from sidtool.data.split.pairs import Cooccurrence, count_cooccurrence
from sidtool.tokenizer.assign.assign import require_capacity
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import library_versions, now
from sidtool.tokenizer.codes.make import fit_once, make_codes
from sidtool.tokenizer.encoder.lexical import LexicalEncoder
from sidtool.tokenizer.encoder.model import check_location, encoder_for
from sidtool.tokenizer.encoder.settings import Encoder
from sidtool.tokenizer.make.build_options import BuildOptions, CatalogOptions, read_catalog
from sidtool.tokenizer.quantize import fit
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.quantize.fusion import (
    Fusion,
    add_collaborative,
    fix_signs,
    fuse,
    fuse_sources,
    source_shares,
)
from sidtool.tokenizer.quantize.mlp import Arrays
from sidtool.tokenizer.sid import Levels

EVENT_DISTANCE = 5
"""Two events of a user co-occur if they are at most this far apart."""
DECAY = 0.85
"""Factor on the weight of a pair for each event between the two."""
MIN_EIGENVALUE = 1e-6
"""Eigenvalues below this share of the largest are rounding errors."""

Source = Vectors | VectorSource | str | Path
"""Vectors of the items: an array in their order, or a file (.npy with ids, Parquet or Zarr)."""


def build_codebook(
    items: Items | str | Path,
    out: str | Path,
    options: BuildOptions | None = None,
    *,
    catalog: CatalogOptions | None = None,
    encoder: Encoder | str | None = None,
    embeddings: Source | Sequence[Source] = (),
    interactions: Split | str | Path | None = None,
    by_row: bool = False,
    memory: int | None = None,
    force: bool = False,
    progress: Mapping[str, Progress] | None = None,
    **given: Any,
) -> Bundle:
    """Build a codebook and the item map of a catalog, and write them to `out` as one bundle. The
    options may also be given as keywords, like `levels="256x256x256"`.

    `items` is a catalog or its file, read with the options `catalog`. Its texts are embedded by
    `encoder`, settings or a model's name; or `embeddings` are their vectors, several sources of
    which are fused. With `by_row`, row i of a file without ids is that of item i. The co-occurrence
    of items in the training part of `interactions` (a split folder, or a file of events) is used as
    set by `options.fusion`. `memory` limits the bytes of vectors held at once.
    `progress` maps the stages "embed", "quantize" and "encode" to functions of finished and total
    steps. Warns of a level whose codes are hardly used (SidtoolWarning). Raises UsageError and
    DataError for input that does not fit together.

    Examples:
        >>> data = {"embeddings": "vectors.npy", "interactions": "split"}
        >>> bundle = sidtool.build_codebook("items.jsonl", "new.zarr", levels="4x4x8", **data)
        >>> bundle
        <Bundle 'new': 60 items, 4x4x8, ...>
    """
    out = Path(out)
    refuse_existing(out, force, BUNDLE)
    if isinstance(embeddings, np.ndarray | VectorSource | str | Path):
        embeddings = [embeddings]
    if isinstance(encoder, str):
        encoder = Encoder(encoder)
    _check_inputs(encoder, embeddings)
    options = options_from(BuildOptions, options, given)
    progress = progress or {}
    if isinstance(items, str | Path):
        items = read_catalog(Path(items), catalog)
    split = interactions
    if isinstance(split, str | Path):
        split = open_split(split)
    sources = _open_sources(embeddings, items.ids, memory, by_row)
    options = replace(options, sizes=options.sizes_for(len(items)))
    with locked(out) as work:
        refuse_existing(out, force)
        made_by: Mapping[str, Any]
        lexical = None
        if encoder is not None:
            text_encoder = encoder_for(items.texts, encoder)
            sources = [
                text_encoder.vectors(
                    items.texts,
                    cache=work / "vectors",
                    devices=None,
                    progress=progress.get("embed"),
                )
            ]
            made_by = text_encoder.record
            lexical = text_encoder if isinstance(text_encoder, LexicalEncoder) else None
        else:
            made_by = {"vectors": "given", "dim": sum(source.shape[1] for source in sources)}
        bundle = build(
            items,
            sources,
            options,
            name=out.name.removesuffix(".zip").removesuffix(".zarr"),
            encoder=made_by,
            lexical=lexical,
            split=split,
            work=work / "codes",
            progress=progress,
        )
        finished = work / out.name
        bundle.save(finished, force=True)
        refuse_existing(out, force)
        publish(finished, out)
        remove(work)
    return Bundle.open(out)


def plan_build(
    items: Items | str | Path,
    options: BuildOptions,
    *,
    catalog: CatalogOptions | None = None,
    encoder: Encoder | None = None,
    embeddings: Sequence[Source] = (),
    interactions: Path | None = None,
    by_row: bool = False,
    memory: int | None = None,
) -> Items:
    """The catalog of a build. Raises what `build_codebook` would raise for these arguments before
    it reads or makes vectors; and its UsageError for more items than SIDs, of which some always
    collide."""
    _check_inputs(encoder, embeddings)
    if not isinstance(items, Items):
        items = read_catalog(Path(items), catalog)
    if interactions is not None:
        open_split(interactions)
    _open_sources(embeddings, items.ids, memory, by_row)
    if embeddings:
        source_shares(len(embeddings), options.weights)
    levels = Levels(options.sizes_for(len(items)))
    if options.collisions == "reassign" and len(items) > levels.capacity:
        require_capacity(len(items), levels)
    return items


def _check_inputs(encoder: Encoder | None, embeddings: Sequence[Any]) -> None:
    """Raise UsageError unless there is an encoder or embeddings, but not both; MissingPackageError
    or DataError if the encoder's packages or its folder are missing."""
    if (encoder is None) == (not embeddings):
        raise UsageError(
            "give either --encoder or --embeddings", hint="--encoder lexical needs no model"
        )
    if encoder is not None:
        check_location(encoder)


def _open_sources(
    embeddings: Sequence[Source], ids: Sequence[str], memory: int | None, by_row: bool
) -> list[Vectors | VectorSource]:
    return [
        open_vectors(Path(source), ids, memory=memory, by_row=by_row)
        if isinstance(source, str | Path)
        else source
        for source in embeddings
    ]


def build(
    items: Items,
    sources: Sequence[Vectors | VectorSource],
    options: BuildOptions,
    *,
    name: str,
    encoder: Mapping[str, Any],
    lexical: LexicalEncoder | None = None,
    split: Split | None = None,
    work: Path | None = None,
    progress: Mapping[str, Progress] | None = None,
) -> Bundle:
    """Quantize (n, dim_i) float32 vectors of n items, of one or several sources, into a bundle.
    `encoder` describes how the vectors were made, for the recipe; `lexical` is stored. One source
    is read in parts, and finished codes are stored in the folder `work`. Other arguments and errors
    as in `build_codebook`."""
    progress = progress or {}
    for source in sources:
        if len(source) != len(items):
            raise DataError(f"{len(source)} vectors for {len(items)} items")
    cooccurrence = None
    recipe: dict[str, Any] = {}  # describes the training part only
    made_from: dict[str, Any] = {}  # no part of the identity, as it has what a split holds out
    if split is not None:
        cooccurrence = count_cooccurrence(split, items.ids, window=EVENT_DISTANCE, decay=DECAY)
        recipe = {"collaborative": {"mode": "fused", **asdict(cooccurrence.record)}}
        made_from = {"split": split.reference.to_json()}
    vectors, fusion, fusion_arrays = _fused(sources, options, cooccurrence)

    def fit_codebook() -> Codebook:
        return fit(
            vectors,
            options.sizes_for(len(items)),
            method=options.method,
            seed=options.seed,
            progress=progress.get("quantize"),
            **options.method_options,
        )

    determined_by = {
        "options": asdict(options),
        "vectors": vectors.fingerprint,
        "ids": digest_strings(items.ids),  # events name items, so the ids matter too
        "version": library_versions(),
        **recipe,
    }
    made = make_codes(
        vectors,
        items.ids,
        lambda: fit_once(fit_codebook, determined_by, work),
        options.collisions,
        seed=options.seed,
        work=work,
        progress=progress.get("encode"),
    )
    codebook = made.codebook
    if fusion is not None:
        codebook = codebook.with_fusion(fusion, fusion_arrays)
    # versions of libraries are recorded outside the identity
    recorded = {key: value for key, value in encoder.items() if key != "libraries"}
    if items.columns is not None:
        made_from["columns"] = items.columns.to_json()
    space = options.space(made.assigned.level_sizes)
    return Bundle.of(
        ItemMap.of(space, items.ids, made.assigned.codes, items.titles),
        codebook,
        options.collisions,
        name=name,
        capacity=made.capacity,
        lexical=lexical,
        recipe={"encoder": recorded, "text_template": items.text_template, **recipe},
        source={"catalog": items.digest, "items": len(items), **made_from},
        report=made.report.to_json(),
        libraries=library_versions("numpy", "zarr", "scipy", *encoder.get("libraries", {})),
        created=now(),
    )


def _fused(
    sources: Sequence[Vectors | VectorSource],
    options: BuildOptions,
    cooccurrence: Cooccurrence | None,
) -> tuple[VectorSource, Fusion | None, Arrays]:
    """What a codebook is fitted to: (n, width) vectors, and how they were fused, with the arrays
    of the fusion. One source alone is not changed; fused vectors are held in memory."""
    source_shares(len(sources), options.weights)  # raises for weights that do not fit
    if cooccurrence is None and len(sources) == 1:
        return VectorSource.of(sources[0]), None, {}
    whole = []
    for source in map(VectorSource.of, sources):
        if source.limit < len(source):
            raise UsageError(
                f"{len(source)} vectors are fused in memory, and the memory limit holds "
                f"{source.limit}",
                hint="a larger --memory",
            )
        whole.append(source.all())
    joined = np.concatenate(whole, axis=1)
    fusion = fuse_sources(whole, options.weights)
    if cooccurrence is None:
        return VectorSource.of(fuse({}, fusion, joined)), fusion, {}
    dims = options.fusion.collaborative_dim
    fusion, arrays, fused = add_collaborative(
        fusion,
        joined,
        factors(ppmi(cooccurrence.counts), dims, options.seed),
        cooccurrence.events,
        options.fusion.collaborative_weight,
    )
    return VectorSource.of(fused), fusion, arrays


def ppmi(counts: Any) -> Any:
    """(n, n) CSR of symmetric weights -> CSR of max(0, log(N_ij N / (N_i N_j))), without zeros."""
    from scipy import sparse

    sums = np.asarray(counts.sum(axis=1)).ravel()
    pairs = counts.tocoo()
    expected = sums[pairs.row] * sums[pairs.col]  # times the total: N_i N_j
    values = np.log(pairs.data * sums.sum() / expected)
    positive = values > 0
    coordinates = (pairs.row[positive], pairs.col[positive])
    return sparse.csr_matrix((values[positive], coordinates), shape=counts.shape)


def factors(matrix: Any, dims: int, seed: int) -> Vectors:
    """(n, n) symmetric CSR -> (n, dims) float32 whose inner products approximate it best. They are
    eigenvectors times the roots of the largest eigenvalues. Rows without entries are zero; so are
    columns beyond the positive eigenvalues. The largest entry of each column is positive, so the
    same seed gives the same signs."""
    from scipy.sparse.linalg import eigsh

    result = np.zeros((matrix.shape[0], dims), dtype=np.float32)
    rows = np.flatnonzero(np.diff(matrix.indptr))
    filled = matrix[rows][:, rows]  # without the empty rows and columns
    if len(rows) <= max(2 * dims, 3):  # Lanczos needs fewer values than rows
        values, vectors = np.linalg.eigh(filled.toarray())
    else:
        start = np.random.default_rng(seed).standard_normal(len(rows))
        values, vectors = eigsh(filled, k=dims, which="LA", v0=start)
    order = np.argsort(-values, kind="stable")[:dims]
    order = order[values[order] > MIN_EIGENVALUE * values.max(initial=0)]
    result[rows, : len(order)] = fix_signs(vectors[:, order]) * np.sqrt(values[order])
    return result
