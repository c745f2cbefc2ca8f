"""Building a bundle: embed the catalog, fit a codebook, resolve collisions, measure, record.

An interrupted build leaves `OUT.partial` with finished vectors and codes, and the same command
resumes from there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError, UsageError
from sidtool.base.extras import library_versions
from sidtool.base.inputs import keeps_inputs
from sidtool.base.jobs import RunJob, run_here
from sidtool.base.options import (
    MAX_SEED,
    argument_options,
    check_options,
    option,
    options_from,
    plain,
    take_options,
)
from sidtool.base.output import locked, publish, refuse_existing, remove
from sidtool.base.output_name import BUNDLE
from sidtool.base.progress import Progress
from sidtool.data import Items, TextNames, Vectors, VectorSource, open_vectors, read_items
from sidtool.data.split import Split, open_split
from sidtool.data.split.pairs import Cooccurrence, count_cooccurrence
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import now
from sidtool.tokenizer.codes.assign import HEADROOM, check_levels
from sidtool.tokenizer.codes.make import fit_once, make_codes
from sidtool.tokenizer.codes.report import Policy
from sidtool.tokenizer.encoder.lexical import LEXICAL, LexicalEncoder
from sidtool.tokenizer.encoder.model import check_location, load_encoder
from sidtool.tokenizer.encoder.settings import Encoder
from sidtool.tokenizer.make.encode import Source, source_list
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.quantize.fusion import (
    Fusion,
    FusionOptions,
    add_collaborative,
    factors,
    fuse,
    fuse_sources,
    ppmi,
    source_shares,
)
from sidtool.tokenizer.quantize.methods import METHODS, Method, check_method, fit
from sidtool.tokenizer.quantize.mlp import Arrays
from sidtool.tokenizer.sid import Levels, SidSpace, Spelling, read_sizes

EVENT_DISTANCE = 5
"""Two events of a user co-occur if they are at most this far apart."""
DECAY = 0.85
"""Factor on the weight of a pair for each event between the two."""


@dataclass(frozen=True)
class BuildOptions:
    """How vectors become SIDs, and how SIDs are spelled.

    Raises UsageError for a method without one of its options, a collision policy that does not
    exist and a vocabulary that cannot be spelled."""

    sizes: tuple[int, ...] | None = option(
        None, reads=read_sizes, flag="--levels", panel="Quantizer"
    )
    """Codes per level, like 256x256x256. Default: by the number of items, 1024x512x512 for 1,639 to
    2.6 million."""
    method: Method = option("rq-kmeans", panel="Quantizer")
    """Quantization method."""
    method_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method, like `balanced`."""
    collisions: Policy = option("reassign")
    """Items with the same SID: reassign all but one, append a level, or allow them."""
    spelling: Spelling = option("openonerec", panel="Output")
    """Token spelling."""
    begin_end_tokens: bool = option(True)
    """Wrap a SID in begin and end tokens, if the spelling has them."""
    fusion: FusionOptions = field(default_factory=FusionOptions)
    weights: tuple[float, ...] = ()
    """One per source of vectors, in proportion; all equal if none are given."""
    seed: int = option(0, minimum=0, maximum=MAX_SEED)
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "method_options", plain(dict(self.method_options)))
        check_method(self.method, self.method_options)
        if self.sizes is not None:
            appended = (HEADROOM,) if self.collisions == "append" else ()  # or more codes
            self.space((*self.sizes, *appended))

    def sizes_for(self, n_items: int) -> tuple[int, ...]:
        """The sizes for so many items: those that were given, or by `Levels.for_items`."""
        return Levels.for_items(n_items).sizes if self.sizes is None else self.sizes

    def space(self, sizes: tuple[int, ...]) -> SidSpace:
        """The SID vocabulary of these sizes (an appended collision level included, if any)."""
        return SidSpace.of_spelling(sizes, self.spelling, begin_end_tokens=self.begin_end_tokens)


@keeps_inputs("a bundle")
def build_codebook(
    items: Items | str | Path,
    out: str | Path,
    options: BuildOptions | None = None,
    *,
    catalog: TextNames | None = None,
    encoder: Encoder | str | None = None,
    embeddings: Source | Sequence[Source] | None = None,
    interactions: Split | str | Path | None = None,
    by_row: bool = False,
    memory_limit: int | None = None,
    run: RunJob = run_here,
    force: bool = False,
    progress: Mapping[str, Progress] | None = None,
    **given: Any,
) -> Bundle:
    """Build a codebook and the item map of a catalog, and write them to `out` as one bundle. The
    options, with those of method and fusion, and those of `catalog` may also be given as keywords,
    like `levels="256x256x256"` or `balanced=True`.

    `items` is a catalog or its file, read with the options `catalog`. Its texts are embedded by
    `encoder`, settings or a model's name; or `embeddings` are their vectors (`open_vectors`), one
    or several sources. With `by_row`, row i of a file without ids is that of item i. The
    co-occurrence of items in the training part of `interactions` (a split, or a file of events) is
    used as set by `options.fusion`. At most `memory_limit` bytes of vectors are held at once; with
    it and `embeddings`, ids and titles are in unnamed files beside `out`, too. `run` runs what
    reads one file of vectors, by workers (`integrations.cluster.connected`). `progress` maps the
    stages "embed", "quantize" and "encode" to functions of finished and total steps. Warns of a
    level whose codes are hardly used. Raises UsageError and DataError for unfit input.

    Examples:
        >>> data = {"embeddings": "vectors.npy", "interactions": "split"}
        >>> bundle = sidtool.build_codebook("items.jsonl", "new.zarr", levels="4x4x8", **data)
        >>> bundle
        <Bundle 'new': 60 items, 4x4x8, ...>
    """
    out = Path(out)
    refuse_existing(out, force, BUNDLE)
    embeddings = source_list(embeddings)
    encoder = argument_options(Encoder, encoder, given)
    catalog = take_options(TextNames, catalog, given)
    options = options_from(BuildOptions, options, _as_fields(given), (TextNames, Encoder))
    progress = progress or {}
    with locked(out) as work:
        refuse_existing(out, force)
        items, sources, split = open_inputs(
            items,
            options,
            catalog=catalog,
            encoder=encoder,
            embeddings=embeddings,
            interactions=interactions,
            by_row=by_row,
            memory_limit=memory_limit,
            folder=None if memory_limit is None else work.parent,
        )
        options = replace(options, sizes=options.sizes_for(len(items)))
        cooccurrence = None  # counted before texts are embedded: events may match no item
        if split is not None:
            cooccurrence = count_cooccurrence(split, items.ids, window=EVENT_DISTANCE, decay=DECAY)
        made_by: Mapping[str, Any]
        vectors: Sequence[Vectors | VectorSource]
        lexical = None
        if encoder is not None:
            if encoder.model == LEXICAL:
                lexical = LexicalEncoder.fit(items.texts)
            text_encoder = lexical or load_encoder(encoder)
            cache, embed = work / "vectors", progress.get("embed")
            vectors = [text_encoder.vectors(items.texts, cache=cache, devices=None, progress=embed)]
            made_by = text_encoder.record
        else:
            made_by = {"vectors": "given", "dim": sum(source.shape[1] for source in sources)}
            vectors = [replace(source, run=run) for source in sources]
        bundle = build(
            items,
            vectors,
            options,
            name=out.name.removesuffix(".zip").removesuffix(".zarr"),
            encoder=made_by,
            lexical=lexical,
            cooccurrence=cooccurrence,
            work=work / "codes",
            progress=progress,
        )
        finished = work / out.name
        bundle.save(finished, force=True)
        refuse_existing(out, force)
        publish(finished, out)
        remove(work)
    return Bundle.open(out)


def _as_fields(keywords: dict[str, Any]) -> dict[str, Any]:
    """Keywords of a build, with those of methods and of the fusion in the fields that hold them."""
    names = {name for quantizer in METHODS.values() for name in quantizer.options}
    method_options = {name: keywords.pop(name) for name in names & keywords.keys()}
    fusion = take_options(FusionOptions, keywords.get("fusion"), keywords)
    if method_options:
        keywords["method_options"] = {**keywords.get("method_options", {}), **method_options}
    return keywords if fusion is None else {**keywords, "fusion": fusion}


def open_inputs(
    items: Items | str | Path,
    options: BuildOptions,
    *,
    catalog: TextNames | None = None,
    encoder: Encoder | None = None,
    embeddings: Sequence[Source] = (),
    interactions: Split | str | Path | None = None,
    by_row: bool = False,
    memory_limit: int | None = None,
    folder: Path | None = None,
) -> tuple[Items, list[VectorSource], Split | None]:
    """The catalog, the sources of vectors and the split of a build. Raises UsageError unless there
    is either an encoder or embeddings, for unfit weights, for options of co-occurrence without
    interactions, for more items than SIDs to reassign, and for fused sources above the memory
    limit; DataError for fewer items than codes in a level; MissingPackageError or DataError if the
    encoder's packages or its folder are missing."""
    if (encoder is None) == (not embeddings):
        raise UsageError(
            "give either --encoder or --embeddings", hint="--encoder lexical needs no model"
        )
    if interactions is None and options.fusion != FusionOptions():
        raise UsageError("collaborative_dim and collaborative_weight need interactions")
    if encoder is not None:
        check_location(encoder)
    names = catalog or TextNames()
    names.require_path(items)
    if not isinstance(items, Items):
        # an encoder reads all texts; vectors are read in parts, and so may ids and titles be
        items = read_items(items, **asdict(names), packed=encoder is None, folder=folder)
    check_levels(len(items), Levels(options.sizes_for(len(items))), options.collisions)
    if isinstance(interactions, str | Path):
        interactions = open_split(interactions)
    sources = [
        open_vectors(source, items.ids, memory_limit=memory_limit, by_row=by_row)
        for source in embeddings
    ]
    source_shares(len(sources) or 1, options.weights)  # raises for weights that do not fit
    for source in sources if len(sources) > 1 or interactions is not None else ():
        if source.limit < len(source):
            raise UsageError(
                f"{len(source)} vectors are fused in memory, the memory limit holds {source.limit}",
                hint="a larger --memory-limit",
            )
    return items, sources, interactions


def build(
    items: Items,
    sources: Sequence[Vectors | VectorSource],
    options: BuildOptions,
    *,
    name: str,
    encoder: Mapping[str, Any],
    lexical: LexicalEncoder | None = None,
    cooccurrence: Cooccurrence | None = None,
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
    recipe: dict[str, Any] = {}  # describes the training part only
    made_from: dict[str, Any] = {}  # no part of the identity, as it has what a split holds out
    if cooccurrence is not None:
        recipe = {"collaborative": {"mode": "fused", **asdict(cooccurrence.record)}}
        made_from = {"split": cooccurrence.split.to_json()}
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
        "version": library_versions("sidtool"),
        **recipe,
    }
    codebook, assigned, report = make_codes(
        vectors,
        items.ids,
        lambda: fit_once(fit_codebook, determined_by, work),
        options.collisions,
        seed=options.seed,
        work=work,
        progress=progress.get("encode"),
    )
    if fusion is not None:
        codebook = codebook.with_fusion(fusion, fusion_arrays)
    # versions of libraries are recorded outside the identity
    recorded = {key: value for key, value in encoder.items() if key != "libraries"}
    if items.columns is not None:
        made_from["columns"] = items.columns.to_json()
    space = options.space(assigned.level_sizes)
    return Bundle.of(
        ItemMap.of(space, items.ids, assigned.codes, items.titles, folder=items.folder),
        codebook,
        options.collisions,
        name=name,
        lexical=lexical,
        recipe={"encoder": recorded, "text_template": items.text_template, **recipe},
        source={"catalog": items.digest, "items": len(items), **made_from},
        report=report.to_json(),
        libraries=library_versions(
            "sidtool", "numpy", "zarr", "scipy", *encoder.get("libraries", {})
        ),
        created=now(),
    )


def _fused(
    sources: Sequence[Vectors | VectorSource],
    options: BuildOptions,
    cooccurrence: Cooccurrence | None,
) -> tuple[VectorSource, Fusion | None, Arrays]:
    """What a codebook is fitted to: (n, width) vectors, and how they were fused, with the arrays
    of the fusion. One source alone is not changed; fused vectors are held in memory."""
    if cooccurrence is None and len(sources) == 1:
        return VectorSource.of(sources[0]), None, {}
    whole = [VectorSource.of(source).all() for source in sources]
    joined = np.concatenate(whole, axis=1)
    fusion = fuse_sources(whole, options.weights)
    if cooccurrence is None:
        return VectorSource.of(fuse({}, fusion, joined)), fusion, {}
    fusion, arrays, fused = add_collaborative(
        fusion,
        joined,
        factors(ppmi(cooccurrence.counts), options.fusion.collaborative_dim, options.seed),
        cooccurrence.events,
        options.fusion.collaborative_weight,
    )
    return VectorSource.of(fused), fusion, arrays
