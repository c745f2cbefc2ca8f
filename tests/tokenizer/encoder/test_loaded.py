"""An encoder is recognized by its probes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sidtool.base.errors import CompatibilityError
from sidtool.tokenizer.encoder.model import load_encoder
from sidtool.tokenizer.encoder.settings import Encoder, EncoderRecipe
from tests.encoders import embed

TEXTS = [f"item {n} {'long ' * (n % 7)}" for n in range(23)]


def test_probes_accept_the_same_encoder_only(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(str(folder))
    _, recipe = embed(TEXTS[:1], encoder, cache=tmp_path)
    recipe = json.loads(json.dumps(recipe))
    assert load_encoder(encoder).check(EncoderRecipe.from_json(recipe)) > 0.999999
    for other in (
        replace(encoder, pooling="cls"),
        replace(encoder, prompt="to find in the shop: "),
    ):
        with pytest.raises(CompatibilityError, match="cosine"):
            load_encoder(other).check(EncoderRecipe.from_json(recipe))
    narrower = recipe | {
        "dim": 8,
        "probes": [p | {"vector": p["vector"][:8]} for p in recipe["probes"]],
    }
    with pytest.raises(CompatibilityError, match="16 dimensions, the recipe has 8"):
        load_encoder(encoder).check(EncoderRecipe.from_json(narrower))
