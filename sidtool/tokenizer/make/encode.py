"""Texts or vectors -> SIDs, by the codebook of a bundle and the encoder named in its recipe; SIDs
in a text -> items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.base.hub import HubAccess, download, hub_url, is_hub_repository
from sidtool.base.locations import opened
from sidtool.base.options import options_from
from sidtool.base.progress import Progress
from sidtool.data import (
    CatalogNames,
    Items,
    TextNames,
    Vectors,
    VectorSource,
    open_vectors,
    read_items,
    rows_in,
)
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.encoder.lexical import LEXICAL
from sidtool.tokenizer.encoder.model import MINILM, TextEncoder, check_location, load_encoder
from sidtool.tokenizer.encoder.settings import Encoder

NO_ITEMS = Items((), (), (), {}, "", "")
Source = Vectors | VectorSource | str | Path
"""Vectors of the items: an array in their order, or a file (.npy with ids, Parquet or Zarr)."""


def source_list(embeddings: Source | Sequence[Source] | None) -> list[Source]:
    """One or several sources of vectors; none for None."""
    if isinstance(embeddings, list | tuple | Iterator | None):
        return list(embeddings or ())
    return [embeddings]  # type: ignore[list-item]  # or what `VectorSource.of` takes


@dataclass(frozen=True)
class Encoding:
    """The SID of one text or vector, and the active items with that SID.

    In a bundle with an appended collision level the SID lacks its last code, and the items are all
    whose SID starts with it."""

    text: str
    """The text, or the number of a vector without one."""
    sid: str
    codes: tuple[int, ...]
    items: tuple[str, ...]


def encode(
    bundle: Bundle | str | Path,
    texts: Sequence[str] = (),
    *,
    embeddings: Source | Sequence[Source] = (),
    vectors: Vectors | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> list[Encoding]:
    """Encode texts, the vectors of `embeddings` (a file or an array per source that was fused), or
    (n, dim) `vectors`, of which texts are names.

    The codes are the nearest ones: collisions are not resolved. Arguments and errors are those of
    `embed_texts`, `open_sources` and `joined`.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> encodings = sidtool.encode(bundle, embeddings=["vectors.npy"])
        >>> len(encodings), encodings[0].sid.startswith("<s_a_")
        (60, True)
    """
    bundle = opened(bundle, "open_bundle")
    # a pandas Series is indexed by labels, not by places
    texts = [texts] if isinstance(texts, str) else list(texts)
    sources = source_list(embeddings)
    if vectors is not None and sources:
        raise UsageError("give either embeddings or vectors")
    if sources:
        vectors = joined(open_sources(bundle, sources))
    if vectors is None:
        vectors = embed_texts(bundle, texts, model=model, trust_remote_code=trust_remote_code)
    rows_of_codes = bundle.encode(vectors).tolist()
    names = texts or [str(row) for row in range(len(rows_of_codes))]
    if len(names) != len(rows_of_codes):
        raise UsageError(f"{len(names)} texts for {len(rows_of_codes)} vectors")
    encodings = []
    items = bundle.items
    for text, codes in zip(names, rows_of_codes, strict=True):
        rows = range(*items.rows_under(codes))
        ids = tuple(items.ids[row] for row in rows if not items.retired[row])
        encodings.append(Encoding(text, bundle.space.spell(codes), tuple(codes), ids))
    return encodings


def open_encoder(
    bundle: Bundle, *, model: str | None = None, trust_remote_code: bool = False
) -> TextEncoder:
    """The encoder of a bundle's recipe, or the one that it stores; `model` is its present location,
    if it moved. Raises as `recorded_encoder` and `load_encoder`, and CompatibilityError if the
    encoder's probe vectors differ from the recipe's."""
    encoder = recorded_encoder(bundle, model=model, trust_remote_code=trust_remote_code)
    if bundle.lexical is not None:
        return bundle.lexical
    loaded = load_encoder(encoder)
    loaded.check(bundle.manifest.made_by.encoder)
    return loaded


def embed_texts(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    model: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Vectors:
    """n texts -> (n, dim) float32, by the encoder of the bundle's recipe, on every GPU. Raises as
    `open_encoder` and `check_texts`."""
    check_texts(bundle, texts, model=model)
    encoder = open_encoder(bundle, model=model, trust_remote_code=trust_remote_code)
    return encoder.vectors(texts, devices=None, progress=progress)


def check_texts(bundle: Bundle, texts: Sequence[str], *, model: str | None) -> None:
    """Raise what `embed_texts` raises before it loads anything: as `recorded_encoder`, and
    DataError for an empty text."""
    recorded_encoder(bundle, model=model)
    check_not_empty(texts)


def recorded_encoder(
    bundle: Bundle, *, model: str | None = None, trust_remote_code: bool = False
) -> Encoder:
    """The encoder that embeds texts for a bundle; nothing is loaded. Raises RefusedError if the
    bundle has no codebook, was built from given vectors or by another encoder than `model`,
    MissingPackageError or DataError if the encoder's packages or its folder are missing."""
    bundle.require_codebook()
    recipe = bundle.manifest.made_by.encoder
    if recipe.model is None:
        raise RefusedError(
            f"bundle {bundle.manifest.name!r} was built from given vectors",
            hint="give --embeddings",
        )
    is_lexical = bundle.lexical is not None
    if model is not None and is_lexical != (model == LEXICAL):
        raise RefusedError(
            f"bundle {bundle.manifest.name!r} was built with the encoder {recipe.model}, not with "
            f"{model}"
        )
    location = model or recipe.model
    if model is None and location not in (LEXICAL, MINILM) and not Path(location).is_dir():
        location = _in_hub_cache(location, recipe.revision)
    encoder = recipe.encoder(location, trust_remote_code=trust_remote_code)
    check_location(encoder)
    return encoder


def _in_hub_cache(recorded: str, revision: str | None) -> str:
    """The folder of an encoder of the hub that a bundle records. Raises DataError if it is not on
    this machine: a bundle may name any model, so only the user can ask for a download."""
    url = recorded if revision is None else hub_url(recorded)  # 0.2.0 recorded ORG/NAME
    missing = f"the bundle's encoder {recorded} is not on this machine"
    if not is_hub_repository(url):
        hint = "--encoder with its present location, or vectors by --embeddings"
        raise DataError(missing, hint=hint)
    try:
        return str(download(url, HubAccess(revision, local_files_only=True)))
    except DataError as error:
        hint = f"--encoder {url} downloads it, or give vectors by --embeddings"
        raise DataError(missing, hint=hint) from error


def check_not_empty(texts: Sequence[str]) -> None:
    """Raise DataError for an empty text, and for what is none."""
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"a text is a string, not {text!r}")
    if not all(text.strip() for text in texts):
        raise DataError("an empty text has no semantic ID")


def read_new_items(
    bundle: Bundle, path: Items | str | Path | None, catalog: CatalogNames | None = None
) -> Items:
    """Read a catalog with the columns and the text template that a bundle records; no items without
    a path, and a catalog as it is. Raises UsageError for another template."""
    if isinstance(path, Items):
        return path
    if isinstance(catalog, TextNames) and catalog.text_template is not None:
        raise UsageError("text_template is not for a bundle, which records it: leave it out")
    if path is None:
        return NO_ITEMS
    template = bundle.manifest.made_by.text_template
    names = catalog or CatalogNames()
    return read_items(
        path,
        text_template=template,
        id_column=names.id_column,
        title_column=names.title_column,
        recorded=bundle.manifest.made_from.columns,
    )


def check_item_vectors(
    bundle: Bundle,
    items: Path | None = None,
    *,
    embeddings: Sequence[str | Path] = (),
    model: str | None = None,
) -> None:
    """Raise what `item_vectors` raises before it reads or makes vectors."""
    if embeddings:
        open_sources(bundle, embeddings, list(bundle.items.ids))
    elif items is not None:
        check_texts(bundle, _item_texts(bundle, items), model=model)


def item_vectors(
    bundle: Bundle | str | Path,
    items: Items | str | Path | None = None,
    *,
    catalog: TextNames | None = None,
    embeddings: Sequence[str | Path] = (),
    model: str | None = None,
    progress: Progress | None = None,
    **given: Any,
) -> Vectors:
    """(n, dim) float32: the vectors of a bundle's n items, in the order of its rows, either from
    the files `embeddings` or by the texts of the catalog `items`, a value or a file, which is read
    with the columns `catalog`, also given as keywords, or those that the bundle records. Raises as
    `open_sources`, `joined` and `embed_texts`, UsageError unless there is one of the two and for a
    text template, and DataError if the catalog lacks an item.

    Examples:
        >>> sidtool.item_vectors("shop.zarr", embeddings=["vectors.npy"]).shape
        (60, 8)
    """
    names = options_from(CatalogNames, catalog, given)
    names.require_path(items)
    sources = source_list(embeddings)
    if (items is None) == (not sources):
        raise UsageError("give either items or embeddings")
    bundle = opened(bundle, "open_source")
    if items is None:
        return joined(open_sources(bundle, sources, list(bundle.items.ids)))
    texts = _item_texts(bundle, items, names)
    return embed_texts(bundle, texts, model=model, progress=progress)


def _item_texts(
    bundle: Bundle, path: Items | str | Path, catalog: CatalogNames | None = None
) -> list[str]:
    """The texts of a bundle's items in a catalog, in the order of the bundle's rows; of a retired
    item that the catalog lacks, its title."""
    items = read_new_items(bundle, path, catalog)
    texts = dict(zip(items.ids, items.texts, strict=True))
    for item in compress(bundle.items.ids, bundle.items.retired):
        texts.setdefault(item, bundle.title(item) or item)
    hint = "give all items of the bundle, or retire these: `sidtool add-items BUNDLE --remove FILE`"
    rows_in(list(texts), list(bundle.items.ids), hint)
    return [texts[item] for item in bundle.items.ids]


def open_sources(
    bundle: Bundle,
    embeddings: Source | Sequence[Source],
    ids: Sequence[str] | None = None,
    *,
    by_row: bool | None = None,
) -> list[VectorSource]:
    """The vectors of each source that a bundle was built from; those of files are not read.
    `by_row` as in `open_vectors`. Raises RefusedError if the bundle has no codebook, UsageError if
    the number of sources, their widths or their lengths do not fit, and as `open_vectors`."""
    dims = bundle.require_codebook().dims
    sources = [open_vectors(source, ids, by_row=by_row) for source in source_list(embeddings)]
    widths = tuple(source.shape[1] for source in sources)
    if widths != dims:
        raise UsageError(
            f"the given vectors have {_join(widths)} dimensions, bundle "
            f"{bundle.manifest.name!r} was built from {_join(dims)}",
            hint="give --embeddings once per source, in the order of build-codebook",
        )
    lengths = [len(source) for source in sources]
    if len(set(lengths)) > 1:
        raise UsageError(f"the files of vectors have {_join(lengths)} rows")
    return sources


def joined(sources: Sequence[VectorSource]) -> Vectors:
    """The vectors of several sources side by side -> (n, sum of dims). Raises DataError for one
    that is not finite."""
    return np.concatenate([source.all() for source in sources], axis=1)


def _join(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


Status = Literal["item", "retired", "unknown", "malformed"]


@dataclass(frozen=True)
class Decoded:
    """One SID of a text, with its items (several if collisions are allowed), or why it has none."""

    sid: str
    status: Status
    items: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()


def decode(bundle: Bundle | str | Path, text: str) -> list[Decoded]:
    """Every SID in a text, in order. A piece that is not a complete SID of the space is
    `malformed`.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> text = f"after {bundle.sid('b007')} came <s_a_1>"
        >>> [(piece.status, piece.items) for piece in sidtool.decode(bundle, text)]
        [('item', ('b007',)), ('malformed', ())]
    """
    bundle = opened(bundle, "open_bundle")
    pieces = list(bundle.space.find(text))
    items = bundle.items_for(len(pieces))
    decoded = []
    for piece in pieces:
        if piece.codes is None:
            decoded.append(Decoded(piece.text, "malformed"))
            continue
        rows = range(*items.rows_under(piece.codes))
        active = [row for row in rows if not items.retired[row]]
        status: Status = "item" if active else "retired" if rows else "unknown"
        named = active or rows
        ids = tuple(items.ids[row] for row in named)
        titles = tuple(items.title(row) for row in named)
        decoded.append(Decoded(piece.text, status, ids, titles))
    return decoded
