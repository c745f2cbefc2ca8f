"""The items, the codebook and the encoder of a bundle, from its arrays and its manifest."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.tokenizer.bundle.item_map import IdIndex, ItemMap
from sidtool.tokenizer.bundle.lookup import check_rows, checked_codes
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.bundle.strings import StringArray
from sidtool.tokenizer.encoder.lexical import ARRAYS, LEXICAL, LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook

Arrays = Mapping[str, NDArray[Any]]


def stored_items(manifest: Manifest, arrays: Arrays) -> ItemMap:
    """The item map. Raises IntegrityError if an array does not fit the manifest."""
    title_arrays = {"items/title_bytes", "items/title_offset"}
    stored_titles = {name for name in title_arrays if name in arrays}
    if stored_titles not in (set(), title_arrays):
        raise IntegrityError(f"{min(stored_titles)} is stored without the other of the titles")
    index = None
    if "index/id_hash" in arrays:
        index = IdIndex(arrays["index/id_hash"], arrays["index/id_row"])
        check_rows(index.rows, manifest.items)
    return ItemMap(
        space=manifest.space,
        ids=_strings(arrays, "items/id", may_be_empty=False),
        codes=checked_codes(manifest.space, arrays["items/sid"]),
        retired=arrays["items/retired"],
        titles=_strings(arrays, "items/title", may_be_empty=True) if stored_titles else None,
        stored_index=index,
    )


def _strings(arrays: Arrays, name: str, *, may_be_empty: bool) -> StringArray:
    columns = (arrays[f"{name}_bytes"], arrays[f"{name}_offset"])
    return StringArray.stored(name, *columns, may_be_empty=may_be_empty)


def stored_codebook(manifest: Manifest, arrays: Arrays) -> Codebook | None:
    """The codebook, or None for a map without one. Raises IntegrityError if it is malformed."""
    names = [name for name in arrays if name.startswith("codebook/")]
    n_levels = sum(1 for name in names if name.startswith("codebook/level_"))
    if not n_levels:
        return None
    quantizer = manifest.made_by.quantizer
    if quantizer is None:
        raise IntegrityError("the bundle has a codebook but no recipe")
    encoder = "codebook/encoder/"
    codebook = Codebook(
        method=quantizer.method,
        levels=tuple(arrays[f"codebook/level_{level}"] for level in range(n_levels)),
        encoder={name.removeprefix(encoder): arrays[name] for name in names if encoder in name},
        params=quantizer.parameters,
    )
    try:
        codebook.check()
    except (ValueError, KeyError) as error:
        raise IntegrityError(f"the codebook is malformed: {error}") from error
    return codebook


def stored_lexical(manifest: Manifest, arrays: Arrays) -> LexicalEncoder | None:
    """The encoder `lexical`, or None if the recipe does not name it. Raises IntegrityError if an
    array is missing, malformed, or not the one of the recipe."""
    recipe = manifest.made_by.encoder
    if recipe.model != LEXICAL or set(recipe.weights) != set(ARRAYS):
        return None
    lexical = LexicalEncoder(
        feature_hash=arrays["encoder/feature_hash"],
        idf=arrays["encoder/idf"],
        components=arrays["encoder/components"],
    )
    try:
        lexical.check()
    except ValueError as error:
        raise IntegrityError(f"the lexical encoder is malformed: {error}") from error
    for name, digest in lexical.record["weights"].items():
        if recipe.weights[name] != digest:
            raise IntegrityError(f"{name} is not the array that the recipe names")
    return lexical
