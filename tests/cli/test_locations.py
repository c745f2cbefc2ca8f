"""Public functions take a bundle, a split, a catalog, a memory or a model by where it is."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sidtool
from tests.cli.road import Road, write_lines


@pytest.fixture
def shop(in_road: None) -> None:
    sidtool.push("shop.zarr", "registry/shop", tag="prod")


NEW_VECTORS = np.eye(2, 8, dtype=np.float32)


@pytest.mark.usefixtures("shop")
def test_a_bundle_may_be_a_reference() -> None:
    reference: str | Path
    bundle = sidtool.open_bundle("shop.zarr")
    write_lines(Path("new.jsonl"), [{"sku": "n1", "name": "a"}, {"sku": "n2", "name": "b"}])
    columns = sidtool.TextNames(id_column="sku", title_column="name")
    for reference in ("registry/shop@prod", Path("shop.zarr")):
        added = sidtool.add_items(reference, "new.jsonl", NEW_VECTORS, catalog=columns)
        assert added.title("n2") == "b"
        assert sidtool.align("other.zarr", reference).space == bundle.space
        assert sidtool.diff(reference, "other.zarr").kept < len(bundle)
        figures = sidtool.compare_bundles([reference], items="items.jsonl", field="description")
        assert figures[0].purity_by_chance == pytest.approx(0.25, abs=0.02)
        assert sidtool.decode(reference, bundle.sid("b007"))[0].items == ("b007",)
        assert sidtool.explain(reference, bundle.sid("b007")).items == 1
        assert len(sidtool.encode(reference, vectors=NEW_VECTORS)) == 2
        assert sidtool.model_tokens("base+sid", reference).level_ids


@pytest.mark.usefixtures("shop")
def test_a_version_made_from_a_reference_has_a_free_number() -> None:
    for item, version in (("b007", "1.1"), ("b008", "1.2")):
        newer = sidtool.add_items("registry/shop@1.0", remove=[item])
        assert newer.manifest.version == version
        newer.save("newer.zarr", force=True)
        sidtool.push("newer.zarr", "registry/shop")
    aligned = sidtool.align("other.zarr", "registry/shop@1.0")
    assert aligned.manifest.version == "2.0"
    aligned.save("aligned.zarr")
    sidtool.push("aligned.zarr", "registry/shop")
    assert sidtool.align("other.zarr", "registry/shop@1.0").manifest.version == "3.0"
    assert sidtool.add_items("shop.zarr", remove=["b007"]).manifest.version == "1.1"
    numbers = sidtool.published_versions("registry/shop")
    opened = sidtool.open_bundle("registry/shop@1.0")
    newer = sidtool.add_items(opened, remove=["b009"], published=numbers)
    assert newer.manifest.version == "1.3"


@pytest.mark.usefixtures("shop")
def test_what_is_written_takes_references() -> None:
    reference = "registry/shop@prod"
    sidtool.export_map(reference, "sids.json", "flashrec")
    assert sidtool.rebind("tuned", reference, "rebound").kind == "same"
    sidtool.extend_model("base", reference, "extended")
    training: dict[str, Any] = {"max_steps": 1, "eval_strategy": "no", "softmax_over": "trie"}
    sidtool.train("base+sid", "train.jsonl", "model", bundle=reference, **training)
    memory = sidtool.build_memory("split", reference)
    assert memory.digest == sidtool.build_memory("events.csv", "shop.zarr", earlier=memory).digest
    memory.save("memory.zarr")
    sidtool.push("memory.zarr", "registry/memory")
    again = sidtool.build_memory("split", reference, earlier="registry/memory")
    assert again.digest == memory.digest
    assert sidtool.tune_similarity("split", reference, users=5).users == 5
    binding = sidtool.tune_memory("model", "split", "registry/memory", "mixed", users=5)
    assert binding.digest == memory.digest
    loaded = sidtool.load_model_folder("mixed", bundle=reference, memory="registry/memory@1.0")
    assert loaded.memory is not None
    assert loaded.memory.memory.digest == memory.digest


@pytest.mark.usefixtures("shop")
def test_a_model_is_used_with_another_bundle_and_memory() -> None:
    newer = sidtool.add_items("shop.zarr", remove=["b007"])
    newer.save("newer.zarr")
    sidtool.build_memory("split", newer).save("memory.zarr")
    training: dict[str, Any] = {"max_steps": 1, "eval_strategy": "no", "softmax_over": "trie"}
    sidtool.train("base+sid", "train.jsonl", "model", **training)
    tonight: dict[str, Any] = {"bundle": "newer.zarr", "memory": "memory.zarr"}
    options: dict[str, Any] = {"limit": 3, "allow_unknown": True}
    loaded = sidtool.load_model_folder("model", **tonight)
    evaluation = sidtool.evaluate("model", "split", **tonight, **options)
    assert evaluation.metrics == sidtool.evaluate(loaded, "split", **options).metrics
    assert evaluation.settings["memory"]
    lists = sidtool.evaluate_lists("model", "split", **tonight, **options)
    assert lists.settings["bundle"] == newer.identity.digest
    task = sidtool.evaluate_task("model", "split", task="next-item", bundle="newer.zarr", **options)
    assert task.n == 3
    by_value = {"bundle": "newer.zarr", "task": "next-item", **options}
    assert sidtool.evaluate_task("model", sidtool.open_split("split"), **by_value) == task
    (answer,) = sidtool.recommend("model", ["b001"], **tonight, explain=True, k=3)
    assert answer.explanations
    with pytest.raises(sidtool.SidtoolError, match="for a model that is given by its path"):
        sidtool.recommend(loaded, ["b001"], **tonight)


@pytest.mark.parametrize("name", ["split", "shop.zarr", "tuned"])
def test_an_empty_path_is_not_the_working_folder(
    road: Road, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(road.folder / name)
    by_items = [partial(make, road.bundle) for make in (sidtool.add_items, sidtool.item_vectors)]
    openers = (sidtool.open_bundle, sidtool.open_split, sidtool.verify, sidtool.read_items)
    for opener in (*openers, *by_items):
        with pytest.raises(sidtool.SidtoolError, match="empty"):
            opener("")  # type: ignore[operator]
    with pytest.raises(sidtool.SidtoolError):
        sidtool.load_model_folder("")


def test_a_location_without_a_bundle_is_an_error_of_sidtool() -> None:
    for function in (sidtool.explain, sidtool.decode, sidtool.encode):
        with pytest.raises(sidtool.SidtoolError, match=r"nothing\.zarr"):
            function("nothing.zarr", "x")
