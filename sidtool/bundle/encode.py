"""From text to SID with the bundle's own encoder, for texts in the catalogue or not.

Knows that the encoder at hand must agree with the recipe; knows nothing of collisions: a code is the nearest one.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sidtool.bundle.bundle import Bundle
from sidtool.embed import Encoder, check_probes, embed
from sidtool.errors import DataError, RefusedError
from sidtool.sid import Codes


def encode_texts(
    bundle: Bundle, texts: Sequence[str], *, model: str | None = None, trust_remote_code: bool = False
) -> Codes:
    """n texts -> (n, codebook levels) codes. `model` is where the encoder lies now, if it moved.

    Raises RefusedError if the bundle's vectors came from elsewhere, CompatibilityError if the encoder's probe vectors
    differ from the recipe's, DataError on an empty text.
    """
    recipe = (bundle.manifest.recipe or {}).get("encoder", {})
    if "model" not in recipe:
        raise RefusedError(f"bundle {bundle.manifest.name!r} was built from given vectors", hint="give --embeddings")
    if not all(text.strip() for text in texts):
        raise DataError("an empty text has no semantic ID")
    known = {field.name: recipe[field.name] for field in fields(Encoder) if field.name in recipe}
    encoder = replace(Encoder(**known), trust_remote_code=trust_remote_code, model=model or known["model"])
    check_probes(encoder, recipe)
    with TemporaryDirectory() as cache:
        vectors, _ = embed(texts, encoder, cache=Path(cache))
    return bundle.encode(vectors)
