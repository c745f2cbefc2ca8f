import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder import model as room
from sidtool.tokenizer.encoder.settings import Encoder
from sidtool.tokenizer.make.encode import encode
from tests.bundles import small_bundle
from tests.encoders import embed, tiny_encoder
from tests.loaded import loaded_model
from tests.recommendation.serve.conftest import MakeClient

TEXTS = ["a red lamp", "blue soap", "a red lamp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose recipe names the encoder."""
    cache = tmp_path_factory.mktemp("cache")
    _, record = embed(["a text"], Encoder(str(folder)), cache=cache)
    made = small_bundle(40, dim=record["dim"])
    recipe: dict[str, Any] = {**(made.manifest.recipe or {}), "encoder": record}
    return Bundle(replace(made.manifest, recipe=recipe), made.arrays)


def test_texts_are_encoded_as_by_the_library(
    make_client: MakeClient, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [asdict(encoding) for encoding in encode(bundle, TEXTS)]
    loads = []
    load = room.load_model
    monkeypatch.setattr(room, "load_model", lambda *named: loads.append(named) or load(*named))
    client = make_client(loaded_model(bundle))
    for _ in range(2):
        answer = client.post("/v1/encode", json={"texts": TEXTS})
        assert answer.json()["encodings"] == json.loads(json.dumps(expected))
    assert len(loads) == 1
    refused = client.post("/v1/encode", json={"texts": ["a lamp", " "]})
    assert refused.status_code == 422
    assert "an empty text" in refused.json()["error"]
    moved = make_client(loaded_model(bundle), encoder=str(folder / "nowhere"))
    assert "is not a folder" in moved.post("/v1/encode", json={"texts": TEXTS}).json()["error"]


def test_a_loaded_encoder_does_not_follow_its_files(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "encoder")
    loaded = room.load_encoder(Encoder(str(copy)))
    expected = loaded.vectors(TEXTS)
    (path,) = copy.rglob("model.safetensors")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
        file.flush()
        assert (loaded.vectors(TEXTS) == expected).all()
        file.truncate(100)  # a mapped file would end the process here
    assert (loaded.vectors(TEXTS) == expected).all()
