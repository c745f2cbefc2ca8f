"""From text to vectors and SIDs with the bundle's own encoder, for texts in the catalog or not.

Knows that the encoder at hand must agree with the recipe; knows nothing of collisions: a code is
the nearest one."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sidtool.bundle.bundle import Bundle
from sidtool.embed import Encoder, check_probes, embed
from sidtool.errors import DataError, RefusedError
from sidtool.sid import Codes, Vectors


def embed_texts(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    model: str | None = None,
    trust_remote_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """n texts -> (n, dim) float32, by the bundle's own encoder. `model` is where it lies now, if it
    moved.

    Raises RefusedError if the bundle has no codebook or its vectors came from elsewhere,
    CompatibilityError if the encoder's probe vectors differ from the recipe's, DataError on an
    empty text."""
    if bundle.codebook is None:
        raise RefusedError(
            f"bundle {bundle.manifest.name!r} is a map without a codebook: it cannot encode"
        )
    recipe = (bundle.manifest.recipe or {}).get("encoder", {})
    if "model" not in recipe:
        raise RefusedError(
            f"bundle {bundle.manifest.name!r} was built from given vectors",
            hint="give --embeddings",
        )
    if not all(text.strip() for text in texts):
        raise DataError("an empty text has no semantic ID")
    known = {field.name: recipe[field.name] for field in fields(Encoder) if field.name in recipe}
    encoder = replace(
        Encoder(**known), trust_remote_code=trust_remote_code, model=model or known["model"]
    )
    check_probes(encoder, recipe)
    with TemporaryDirectory() as cache:
        vectors, _ = embed(texts, encoder, cache=Path(cache), progress=progress)
    return vectors


def encode_texts(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> Codes:
    """n texts -> (n, codebook levels) codes; arguments and errors are those of `embed_texts`."""
    return bundle.encode(
        embed_texts(bundle, texts, model=model, trust_remote_code=trust_remote_code)
    )
