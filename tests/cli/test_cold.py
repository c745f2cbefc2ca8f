"""New items without interactions: they get SIDs from their text, and a model of the parent bundle
recommends them."""

from pathlib import Path

import numpy as np
import pytest

from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import TRAINING, Road, done, write_lines

ASKED = ("--history", "b001,b002,b003", "--json")


@pytest.fixture(scope="module")
def shop(road: Road, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that encodes text, a model trained on it, and six items that came later."""
    folder = tmp_path_factory.mktemp("cold")
    parent, model, examples = folder / "parent.zarr", folder / "base+sid", folder / "train.jsonl"
    build = ("build-codebook", road.items, "-o", parent, "--levels", "4x4x8", "--encoder", encoder)
    done(*build, "--text-template", "{title}")
    done("extend-model", road.base, parent, "-o", model)
    done("make-sft", parent, road.items, road.events, "-o", examples, "--model", model)
    done("train", model, examples, "-o", folder / "tuned", *TRAINING)
    lamps = ("red lamp 99", "red kettle 96", "blue lamp 95")
    titles = (*lamps, "blue soap 98", "green novel 97", "green soap 94")
    cold = ({"item_id": f"n{n}", "title": title} for n, title in enumerate(titles))
    write_lines(folder / "new.jsonl", cold)
    write_lines(folder / "new.txt", (f"n{n}" for n in range(6)))
    done("add-items", folder / "parent.zarr", folder / "new.jsonl", "-o", folder / "child.zarr")
    return folder


def test_new_items_get_the_codes_of_encode(shop: Path) -> None:
    child = Bundle.open(shop / "child.zarr")
    encoded = done("encode", shop / "parent.zarr", "red lamp 99", "red kettle 96", "--json").lines
    for item, output in zip(("n0", "n1"), encoded, strict=True):
        codes = child.items.codes[child.items.row(item)]
        assert codes[:1].tolist() == output["codes"][:1]  # a collision moves the last levels alone
    assert {f"n{n}" for n in range(6)} <= set(child.items.ids)


def test_cold_items_are_recommended_by_score_and_under_an_allow_list(shop: Path) -> None:
    ask = ("recommend", shop / "tuned", "--bundle", shop / "child.zarr", *ASKED, "-k", 6)
    scored = done(*ask, "--candidates", shop / "new.txt")
    # the parent's model works with the child bundle, and a notice says that the catalog grew
    assert "6 were added" in scored.err
    answer = scored.json
    assert set(answer["items"]) == {f"n{n}" for n in range(6)}
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert len(set(answer["scores"])) > 1
    allowed = done(*ask, "--allow", shop / "new.txt", "--num-beams", 100).json
    assert allowed["items"] == answer["items"]
    np.testing.assert_allclose(allowed["scores"], answer["scores"], atol=1e-4)
