"""Where the weights of an encoder came from is no part of a bundle's identity."""

from typing import Any

import pytest

from sidtool.tokenizer.bundle.layout import identify
from sidtool.tokenizer.bundle.manifest import Identity
from tests.bundles import small_bundle

BUNDLE = small_bundle(8)
PLACE = {"model": "org/a", "revision": "1", "trust_remote_code": False, "probes": [0.5]}


def identity(**changed: Any) -> Identity:
    encoder = {"weights": {"model.safetensors": "ab"}, "prompt": "x", **PLACE, **changed}
    return identify(BUNDLE.space, BUNDLE.items, None, {"encoder": encoder}, "allow")


@pytest.mark.parametrize("key", PLACE)
def test_the_place_of_the_weights_changes_nothing(key: str) -> None:
    assert identity(**{key: "other"}) == identity()


def test_weights_and_prompt_change_the_codebook() -> None:
    assert identity(weights={}) != identity()
    assert identity(prompt="y") != identity()
