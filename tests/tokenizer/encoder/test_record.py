"""The record of an encoder in a recipe."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from sidtool.tokenizer.encoder.settings import Encoder
from tests.encoders import embed

TEXTS = [f"item {n} {'long ' * (n % 7)}" for n in range(23)]


def test_the_recipe_records_the_defaults_of_the_model(folder: Path, tmp_path: Path) -> None:
    import hashlib

    _, facts = embed(TEXTS[:1], Encoder(str(folder)), cache=tmp_path)
    assert (facts["pooling"], facts["dtype"], facts["max_length"], facts["prompt"]) == (
        "mean",
        "float32",
        64,
        None,
    )
    weights = (folder / "model.safetensors").read_bytes()
    assert facts["weights"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert len(facts["probes"]) == 3
    assert json.loads(json.dumps(facts)) == facts
    again = Encoder(**{field.name: facts[field.name] for field in fields(Encoder)})
    vectors, facts_again = embed(TEXTS, again, cache=tmp_path)
    assert facts_again == facts
    np.testing.assert_array_equal(
        vectors, embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "b")[0]
    )
