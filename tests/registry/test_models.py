import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import yaml

from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    IntegrityError,
    RefusedError,
    UsageError,
)
from sidtool.base.storage import storage
from sidtool.base.storage.storage import Range, Storage
from sidtool.memory.build import build_memory
from sidtool.model.contract.contract import MEMORY_COPY, MemoryBinding
from sidtool.model.contract.folder import read_contract, write_contract
from sidtool.model.contract.stage_record import ModelReference
from sidtool.model.load import load_model_folder
from sidtool.registry import pull, push, transfer
from sidtool.registry.copies import locate_model
from sidtool.registry.kinds import StoredModel, read_manifest
from sidtool.registry.publish import plan_push
from sidtool.registry.references import find_version, locate, open_bundle
from sidtool.registry.transfer import broken_parts
from sidtool.registry.version_log import log
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import renamed
from tests.cli.road import done, refused, run, tree
from tests.data.split.cases import split_of
from tests.model.cases import distinct_codes, make_bundle, make_codebook, save_base
from tests.model.contract.cases import TRAINED, trained_model
from tests.models import tiny_model, tiny_tokenizer
from tests.registry.test_publish import killed_pushes
from tests.sealed import reseal
from tests.waiting import Start, run_concurrently


def catalog_bundle() -> Bundle:
    ids = [f"item{n}" for n in range(20)]
    return make_bundle(ids, distinct_codes(20), codebook=make_codebook())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model with a memory, and what a training leaves beside it."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = tiny_tokenizer(chat=True)
    base = save_base(folder / "base", tiny_model("llama", vocab_size=len(tokenizer)), tokenizer)
    bundle = catalog_bundle()
    model = trained_model(base, bundle, folder / "model")
    memory = build_memory(split_of([[f"item{n}", f"item{n + 1}"] for n in range(9)]), bundle)
    memory.save(model / MEMORY_COPY)
    binding = MemoryBinding(memory.digest, 0.5, 2.0, {})
    write_contract(model, replace(read_contract(model), memory=binding), bundle)
    (model / "training.jsonl").write_text("{}\n")
    return model


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def changed(model: Path) -> Path:
    """The model after another stage."""
    contract = read_contract(model)
    stage = replace(contract.stages[-1], params=replace(TRAINED, run="00" * 32))
    memory = contract.memory
    write_contract(model, contract.with_stage(stage, memory=memory), catalog_bundle())
    return model


def published(model: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(model).items() if name != "training.jsonl"}


def test_a_pulled_model_equals_the_pushed_one(shop: str, model: Path, tmp_path: Path) -> None:
    pushed = push(str(model), shop, tag="prod")
    assert (pushed.version, pushed.new, pushed.latest) == ("1.0", True, "1.0")
    assert push(str(model), shop) == replace(pushed, new=False, sent=0)
    out = tmp_path / "out"
    record = pull(f"{shop}@prod", out)
    assert (record.kind, record.license) == ("model", "cc-by-4.0")
    assert tree(out) == published(model)
    assert load_model_folder(out).memory is not None
    assert broken_parts(locate(shop)[0]) == []
    second = push(str(changed(model)), shop)
    assert (second.version, second.latest) == ("1.1", "1.1")
    assert second.digest != pushed.digest
    assert find_version(f"{shop}@prod")[1].version == "1.0"
    assert push(f"{shop}@1.0", f"{shop}-mirror").digest == pushed.digest


@pytest.mark.parametrize("page", [b'<a href="?C=N;O=D">Name</a> <a href="zarr.json">', None])
def test_a_web_server_without_sizes_and_ranges_is_a_store(
    page: bytes | None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it shows a page for a folder, as Apache does, or refuses, as nginx does."""
    pytest.importorskip("aiohttp")

    class Handler(SimpleHTTPRequestHandler):
        def list_directory(self, path: str | os.PathLike[str]) -> io.BytesIO | None:
            self.send_response(200 if page else 403)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            return io.BytesIO(page or b"")

    monkeypatch.setattr(transfer, "BATCH_BYTES", 50_000)  # the weights go in pieces
    monkeypatch.setattr(storage, "PIECE_BYTES", 50_000)
    push(str(model), str(tmp_path / "models"))
    serving = partial(Handler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        pull(f"{url}/models", tmp_path / "out")
        assert broken_parts(f"{url}/out") == []
        assert broken_parts(f"{url}/out/memory.zarr") == []
        assert tree(tmp_path / "out") == published(model)
        (tmp_path / "out" / "tokenizer.json").unlink()
        assert broken_parts(f"{url}/out") == [("tokenizer.json", "missing")]
        server.shutdown()


def test_a_push_can_be_killed_between_any_two_writes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH", 40)
    monkeypatch.setattr(transfer, "BATCH_BYTES", 50_000)  # the weights go in pieces
    visible, _ = zip(*killed_pushes(model, f"memory://{tmp_path.name}", monkeypatch), strict=True)
    assert visible == (*[0] * (len(visible) - 1), 1)
    assert len(visible) > 5


def test_threads_share_the_copy_of_a_remote_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"memory://{tmp_path.name}-threads/shop"
    push(str(model), place)
    start, read_ranges = Start(2), Storage.read_ranges

    def slowly(self: Storage, ranges: list[Range]) -> list[bytes]:
        time.sleep(0.1)  # the other thread looks for the copy meanwhile
        return read_ranges(self, ranges)

    def locate_at_once() -> Path:
        start.wait()
        return Path(locate_model(place, tmp_path / "copies"))

    monkeypatch.setattr(Storage, "read_ranges", slowly)
    paths = run_concurrently(locate_at_once, locate_at_once, start=start)
    assert paths[0] == paths[1]
    assert broken_parts(str(paths[0])) == []


def test_large_files_go_in_pieces(
    shop: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (model / "model.safetensors").stat().st_size
    monkeypatch.setattr(transfer, "BATCH_BYTES", size // 3)
    monkeypatch.setattr(storage, "PIECE_BYTES", size // 5)
    longest = []
    read_ranges = Storage.read_ranges

    def recorded(self: Storage, ranges: list[storage.Range]) -> list[bytes]:
        data = read_ranges(self, ranges)
        longest.append(max(map(len, data), default=0))
        return data

    monkeypatch.setattr(Storage, "read_ranges", recorded)
    reports: list[tuple[int, int]] = []
    push(str(model), shop, progress=lambda *at: reports.append(at))
    assert reports[-1] == (reports[-1][1],) * 2
    pull(shop, tmp_path / "out")
    assert max(longest) <= size // 3
    assert tree(tmp_path / "out") == published(model)
    registry, record = find_version(shop)
    weights = {"model.safetensors": b"\0" * size}
    registry.folder(record.group).put(weights)
    assert [name for name, _ in broken_parts(locate(shop)[0])] == ["model.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put_pieces", lambda *_: [None for _ in _[2]])
        with pytest.raises(IntegrityError, match="did not arrive as it was sent"):
            push(str(model), shop)
    assert push(str(model), shop).sent == 1
    assert broken_parts(locate(shop)[0]) == []


def flip(name: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        data = bytearray((model / name).read_bytes())
        data[-1] ^= 1
        (model / name).write_bytes(bytes(data))

    return change


def other_bundle(model: Path) -> None:
    codes = distinct_codes(20, seed=1)
    ids = [f"item{n}" for n in range(20)]
    make_bundle(ids, codes, codebook=make_codebook()).save(model / "sid.zarr", force=True)


def other_bundle_with_its_digest(model: Path) -> None:
    other_bundle(model)
    root = hashlib.sha256((model / "sid.zarr" / "zarr.json").read_bytes()).hexdigest()
    rewrite(model, files={**read_contract(model).files, "sid.zarr/zarr.json": root})


def same_items(model: Path) -> None:
    renamed(catalog_bundle(), "other").save(model / "sid.zarr", force=True)


def other_tokens(model: Path) -> None:
    space = json.loads((model / "sid.json").read_text())["space"]
    rewrite(model, space={**space, "begin": "<|begin|>"})


DAMAGES = {
    "weights": (flip("model.safetensors"), r"model\.safetensors: its SHA-256 differs"),
    "tokenizer": (flip("tokenizer.json"), r"tokenizer\.json: its SHA-256 differs"),
    "codes": (flip("sid.zarr/items/sid/c/0/0"), "sid.zarr/items/sid/c/0/0: its SHA-256 differs"),
    "bundle": (other_bundle, "sid.zarr/zarr.json is not the one that sid.json records"),
    "identity": (other_bundle_with_its_digest, r"has digest \w+, the contract says \w+"),
    "name of the bundle": (same_items, "is not the one that sid.json records"),
    "memory": (flip("memory.zarr/items/events/c/0"), "memory.zarr/items/events/c/0: its SHA-256"),
    "missing": (lambda model: (model / "tokenizer.json").unlink(), "tokenizer.json: missing"),
    "tokens": (other_tokens, "sid.zarr has another space than sid.json"),
    "no bundle": (lambda model: shutil.rmtree(model / "sid.zarr"), "has no sid.zarr/zarr.json"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_model_that_was_changed_is_not_pushed(name: str, model: Path, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    damage(model)
    with pytest.raises(IntegrityError, match=message):
        push(str(model), str(tmp_path / "shop"))
    assert not (tmp_path / "shop").exists()
    assert re.search(message, "".join(f"{where}: {why}" for where, why in broken_parts(str(model))))


def rewrite(model: Path, **values: object) -> None:
    reseal(model / "sid.json", values)


def test_contracts_that_lead_elsewhere_are_refused(model: Path, tmp_path: Path) -> None:
    files = dict(read_contract(model).files)
    for name in ("../weights", "/etc/passwd", "a//b"):
        rewrite(model, files={**files, name: "00" * 32})
        with pytest.raises(IntegrityError, match="outside of the folder"):
            push(str(model), str(tmp_path / "shop"))
    rewrite(model, files={**files, "model.safetensors": "short"})
    with pytest.raises(IntegrityError, match="not a SHA-256"):
        push(str(model), str(tmp_path / "shop"))
    rewrite(model, files={**files, "sid.zarr/items": "00" * 32})
    with pytest.raises(IntegrityError, match="is an object and a folder"):
        push(str(model), str(tmp_path / "shop"))


def test_a_model_that_lacks_digests_or_its_base_is_refused(model: Path, tmp_path: Path) -> None:
    shop = str(tmp_path / "shop")
    base = ModelReference("elsewhere/base", {})
    write_contract(model, replace(read_contract(model), base_folder=base), catalog_bundle())
    with pytest.raises(RefusedError, match="has adapters, and needs the model elsewhere/base"):
        push(str(model), shop)
    rewrite(model, files={})
    with pytest.raises(CompatibilityError, match="without digests") as caught:
        push(str(model), shop)
    assert f"sidtool rebind {model} {model}/sid.zarr" in str(caught.value.shell_hint)


def test_a_registry_holds_one_kind(model: Path, tmp_path: Path) -> None:
    shop = str(tmp_path / "shop")
    push(str(model), shop)
    with pytest.raises(RefusedError, match="has versions of a model, and this is a bundle"):
        push(str(model / "sid.zarr"), shop)
    with pytest.raises(UsageError, match="is a model, not a folder of versions"):
        push(str(model / "sid.zarr"), str(model))
    with pytest.raises(DataError, match="is a model, not a bundle") as caught:
        open_bundle(f"{shop}@1.0")
    location = str(caught.value.shell_hint).rpartition(" ")[2]
    assert Bundle.open(location).identity == catalog_bundle().identity
    with pytest.raises(UsageError, match=r"ends with \.zarr, but a folder is written"):
        pull(shop, tmp_path / "out.zarr")


def test_the_log_lists_the_published_models(model: Path, tmp_path: Path) -> None:
    shop = str(tmp_path / "models")
    (entry,) = log(model).versions
    assert entry.version.version == "-"
    push(str(model), shop)
    push(str(changed(model)), shop, tag="prod")
    history = log(shop)
    assert [entry.published for entry in history.versions] == [("1.1", "latest", "prod"), ("1.0",)]
    digest = catalog_bundle().identity.digest[:12]
    assert str(history.versions[0].version.change) == f"extend > full > full, bundle {digest}"
    shutil.rmtree(next(Path(shop).glob("versions/1.0-*")))
    with pytest.raises(IntegrityError, match=r"versions/1\.0-.*: sid\.json differs"):
        log(shop)


def test_the_card_names_license_and_reference(model: Path, tmp_path: Path) -> None:
    shop = str(tmp_path / "shop")
    push(str(model), shop, license="mit")
    (card,) = Path(shop).glob("versions/*/README.md")
    assert "sidtool pull shop@1.0 -o model && cd model" in card.read_text()
    assert str(tmp_path) not in card.read_text()
    pull(shop, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "mit"
    assert "sidtool pull" not in text


def test_the_commands_take_models(model: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    stored = read_manifest(str(model))
    assert isinstance(stored, StoredModel)
    plan = done("push", model, shop, "--dry-run", "--json").json
    checked = plan_push(str(model), str(shop)).source
    assert plan["objects"] == len(stored.objects) + 1 == checked.n_objects
    done("push", model, shop, "--tag", "prod")
    ran = done("pull", f"{shop}@prod", "-o", tmp_path / "out")
    assert ran.last == f"next: sidtool recommend {tmp_path / 'out'} --history ITEM,ITEM -k 10"
    verified = done("verify", tmp_path / "out").out
    counts = f"20 items, {len(stored.objects) + 1} objects, {stored.digest}"
    assert verified == f"{tmp_path / 'out'}: {counts}\n"
    assert "extend > full" in done("log", shop).out
    (tmp_path / "out/README.md").write_text("my own card")  # no part of the model
    done("verify", tmp_path / "out")
    np.save(tmp_path / "out/model.npy", np.zeros(3))
    done("verify", tmp_path / "out")
    flip("model.safetensors")(tmp_path / "out")
    damaged = run("verify", tmp_path / "out")
    assert damaged.code == 3
    assert "model.safetensors" in damaged.err
    assert "sid.json" not in refused(2, "push", model, f"{shop}@prod")
