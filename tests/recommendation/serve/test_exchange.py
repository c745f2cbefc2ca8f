import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sidtool.base.errors import CompatibilityError, DataError, RefusedError, UsageError
from sidtool.data.split import Split, UserSequence
from sidtool.memory import build_memory
from sidtool.memory.mixture import MemoryOptions
from sidtool.model import LoadedModel, load_model_folder
from sidtool.model.prompt import HistoryPrompt, TextPrompt
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.recommendation.serve import Service, Sources, make_app
from sidtool.recommendation.serve.batcher import Served
from sidtool.recommendation.serve.serve_options import ServeOptions, Version
from sidtool.registry import open_bundle, push, tag
from sidtool.tokenizer import encode
from tests.loaded import with_prompts
from tests.model.test_finite import poison
from tests.recommendation.serve.conftest import OPTIONS
from tests.recommendation.serve.disk import N_GROWN, N_ITEMS, catalog_bundle, save_model
from tests.tokenizer.encoder.test_lexical import lexical_bundle

K = RecommendOptions(k=N_GROWN, num_beams=N_GROWN)
HISTORY = ("b001", "b002")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one catalog."""
    folder = tmp_path_factory.mktemp("served")
    return tuple(save_model(folder / f"{seed}", seed=seed) for seed in (0, 1))  # type: ignore[return-value]


class Shop:
    """A served model whose locations are looked at when a test says so."""

    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.options = ServeOptions(recommend=K, poll_seconds=3600, **options)
        self.service = Service.open(self.options, tmp_path / "copies")
        self.client = TestClient(make_app(self.options, self.service))

    def look(self) -> bool:
        return self.service.watcher.look()

    def items(self) -> list[str]:
        answer = self.client.post("/v1/recommend", json={"history": HISTORY})
        assert (
            answer.headers["sidtool-bundle"]
            == self.service.batcher.served.loaded.bundle.digest[:12]
        )
        return list(answer.json()["items"])


def offline(model: str | Path, bundle: str | Path | None = None, **more: Any) -> list[str]:
    other = None if bundle is None else open_bundle(bundle)
    loaded = load_model_folder(model, bundle=other, **more)
    (answer,) = recommend(loaded, [Request(history=HISTORY)], K)
    return list(answer.items)


def test_a_bundle_that_grows_is_taken(models: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "shop.zarr"
    catalog_bundle().save(path)
    shop = Shop(tmp_path, model=str(models[0]), bundle=str(path))
    with shop.client:
        network = shop.service.batcher.served.loaded.model
        assert shop.items() == offline(models[0])
        assert not shop.look()
        catalog_bundle(N_GROWN).save(path, force=True)
        assert shop.look()
        assert shop.items() == offline(models[0], path)
        assert len(shop.items()) == N_GROWN
        assert shop.service.batcher.served.loaded.model is network  # no weight was read again
        ready = shop.client.get("/readyz").json()
        assert (ready["items"], ready["compatibility"]) == (N_GROWN, "refreshed")
        assert 'sidtool_exchanges_total{result="exchanged"} 1.0' in shop.client.get("/metrics").text
        # it may also shrink again
        catalog_bundle().save(path, force=True)
        assert shop.look()
        assert len(shop.items()) == N_ITEMS


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_model_that_failed_in_a_batch_is_tried_at_each_look(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    shop = Shop(tmp_path, model=str(models[0]))
    with shop.client:
        shop.service.batcher.is_alive = False
        if is_lost:
            monkeypatch.setattr(Served, "warm_up", lambda _: 1 // 0)
        assert not shop.look()
        assert shop.client.get("/readyz").status_code == (503 if is_lost else 200)


def test_a_bundle_of_another_codebook_is_refused_once_and_the_old_one_stays(
    models: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.zarr"
    catalog_bundle().save(path)
    shop = Shop(tmp_path, model=str(models[0]), bundle=str(path))
    with shop.client:
        before = shop.items()
        catalog_bundle(seed=5).save(path, force=True)
        assert not shop.look()
        assert shop.items() == before
        ready = shop.client.get("/readyz")
        assert ready.status_code == 200
        assert "the model was made for codebook" in ready.json()["not_taken"]
        assert not shop.look()  # it is not loaded again
        assert sum("refused, the old one stays" in record.message for record in caplog.records) == 1
        shutil.rmtree(path)
        assert not shop.look()
        assert "there is no bundle" in shop.client.get("/readyz").json()["not_taken"]
        assert shop.items() == before
        catalog_bundle(N_GROWN).save(path)
        assert shop.look()
        assert shop.client.get("/readyz").json()["not_taken"] is None


def test_texts_are_encoded_by_the_stored_encoder_after_its_bundle_was_replaced(
    tmp_path: Path,
) -> None:
    bundle, path = lexical_bundle(), tmp_path / "shop.zarr"
    expected = [encoding.sid for encoding in encode(bundle, ["a red lamp"])]
    bundle.save(path)
    shop = Shop(tmp_path, model=str(save_model(tmp_path, bundle)), bundle=str(path))
    with shop.client:
        catalog_bundle(seed=5).save(path, force=True)
        assert not shop.look()
        answer = shop.client.post("/v1/encode", json={"texts": ["a red lamp"]}).json()
        assert [encoding["sid"] for encoding in answer["encodings"]] == expected


def test_a_refused_model_is_taken_when_it_was_repaired(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    path = shutil.copytree(models[0], tmp_path / "model")
    shop = Shop(tmp_path, model=str(path))

    def put(model: Path, *, damage: bool = False) -> None:
        shutil.copytree(model, path, dirs_exist_ok=True)
        if damage:
            weights = bytearray((path / "model.safetensors").read_bytes())
            weights[-1] ^= 1
            (path / "model.safetensors").write_bytes(weights)

    with shop.client:
        for _ in range(2):  # there and back again
            put(models[1], damage=True)
            assert not shop.look()
            assert "model.safetensors" in shop.client.get("/readyz").json()["not_taken"]
            assert shop.items() == offline(models[0])
            put(models[0])
            assert not shop.look()
            assert shop.client.get("/readyz").json()["not_taken"] is None
        put(models[1], damage=True)
        assert not any(shop.look() for _ in range(5))
        put(models[1])
        assert any(shop.look() for _ in range(9))
        assert shop.items() == offline(models[1])


def test_a_model_with_weights_that_are_nan_is_not_loaded_at_each_look(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(models[0], tmp_path / "model")
    shop = Shop(tmp_path, model=str(path))
    loads: list[object] = []
    load = Sources.load
    monkeypatch.setattr(Sources, "load", lambda sources: loads.append(1) or load(sources))
    with shop.client:
        shutil.copytree(models[1], path, dirs_exist_ok=True)
        poison(path, float("nan"))
        assert not any(shop.look() for _ in range(5))
        assert "NaN or infinite" in shop.client.get("/readyz").json()["not_taken"]
        assert len(loads) == 2
        shutil.copytree(models[1], path, dirs_exist_ok=True)
        assert shop.look()


def test_what_is_replaced_while_it_is_read_is_not_taken(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.zarr"
    catalog_bundle().save(path)
    shop = Shop(tmp_path, model=str(models[0]), bundle=str(path))
    reload = Sources.reload

    def reload_and_replace(*arguments: Any) -> LoadedModel:
        loaded = reload(*arguments)
        catalog_bundle(N_GROWN).save(path, force=True)
        return loaded

    with shop.client:
        catalog_bundle(N_ITEMS + 1).save(path, force=True)
        monkeypatch.setattr(Sources, "reload", reload_and_replace)
        assert not shop.look()
        assert "replaced while it was read" in shop.client.get("/readyz").json()["not_taken"]
        assert shop.look()
        assert len(shop.items()) == N_GROWN


@pytest.mark.parametrize("store", ["file", "memory"])
def test_a_tag_of_a_model_moves(models: tuple[Path, Path], tmp_path: Path, store: str) -> None:
    registry = f"{tmp_path / 'registry' / 'model'}"
    if store == "memory":  # as a remote one: models are copied from it
        registry = f"memory://{tmp_path.name}/model"
    push(str(models[0]), registry, tag="prod")
    shop = Shop(tmp_path, model=f"{registry}@prod")
    first, second = map(offline, models)
    assert first != second
    with shop.client:
        assert shop.items() == first
        push(str(models[1]), registry)
        assert not shop.look()  # the tag did not move
        for version, expected in (("1.1", second), ("1.0", first)):
            tag(f"{registry}@{version}", "prod")
            assert shop.look()
            assert shop.items() == expected == offline(f"{registry}@prod")
    bundle = tmp_path / "shop.zarr"
    catalog_bundle().save(bundle)
    push(bundle, f"{registry}-bundle")
    with pytest.raises(UsageError, match="is a bundle, not a model"):
        offline(f"{registry}-bundle@1.0")


def test_a_nightly_memory_is_taken(models: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "memory.zarr"

    def save_memory(step: int, *, force: bool = False) -> None:
        users = tuple(
            UserSequence(f"u{n}", (f"b{n:03d}", f"b{(n + step) % 9:03d}"), (1, 2)) for n in range(9)
        )
        memory = build_memory(Split("leave-one-out", users, (), ()), catalog_bundle())
        memory.save(path, force=force)

    save_memory(1)
    memory = MemoryOptions(path, 0.9)
    shop = Shop(tmp_path, model=str(models[0]), memory=memory)
    with shop.client:
        before = shop.items()
        assert before == offline(models[0], memory=memory)
        save_memory(4, force=True)
        assert shop.look()
        assert shop.items() == offline(models[0], memory=memory) != before
        body = {"history": HISTORY, "explain": True, "k": 1}
        answer = shop.client.post("/v1/recommend", json=body).json()
        assert 0 <= answer["explanations"][0]["memory_share"] <= 1


def test_what_is_no_model_is_refused_at_the_start(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "other.zarr"
    catalog_bundle(seed=5).save(path)
    cases: list[tuple[type[Exception], dict[str, Any], str]] = [
        (DataError, {"model": str(tmp_path)}, "there is no model"),
        (CompatibilityError, {"model": str(models[0]), "bundle": str(path)}, "codebook"),
    ]
    push(str(path), str(tmp_path / "registry" / "shop"))
    reference = f"{tmp_path / 'registry' / 'shop'}@1.0"
    cases.append((UsageError, {"model": reference}, "is a bundle, not a model"))
    for kind, options, message in cases:
        with pytest.raises(kind, match=message):
            Service.open(replace(ServeOptions("x"), **options), tmp_path / "copies")


def test_a_model_that_cannot_answer_is_refused(shop: LoadedModel) -> None:
    untrained = with_prompts(shop)
    with pytest.raises(RefusedError, match="the model cannot answer: the model was not trained"):
        Served.of(untrained, Version("v1"), OPTIONS.recommend).warm_up()


SEQUENCE = HistoryPrompt("sequence", "{user.age}{history}", 5, 300, separator=" ")
SEQUENCE = replace(SEQUENCE, item="{gap}{event.device}{sid}{event.rating}")
BY_RATING = "{context.place}{history}{feedback.rating}{gap}"
PROMPTS: dict[str, dict[str, Any]] = {
    "text": {"text_prompt": TextPrompt("title-to-sid", "{item}:", 100)},
    "sequence with fields": {"history_prompt": SEQUENCE},
    "fields": {"history_prompt": HistoryPrompt("by-rating", BY_RATING, 5, 300, item="{ago}{sid}")},
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_trial_is_a_request_that_the_model_can_answer(shop: LoadedModel, prompt: str) -> None:
    loaded = with_prompts(shop, **PROMPTS[prompt])
    Served.of(loaded, Version("v1"), OPTIONS.recommend).warm_up()
