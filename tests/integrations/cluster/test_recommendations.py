from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.data.split import Split
from sidtool.evaluation import EvaluationOptions
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.integrations.cluster import ClusterRanker, ModelSource, recommend_folder
from sidtool.integrations.cluster.run import RunReport
from sidtool.memory import build_memory
from sidtool.memory.mixture import MemoryOptions, WeightedMemory
from sidtool.model import LoadedModel
from sidtool.model.contract import Contract
from sidtool.recommendation import (
    RecommendOptions,
    answer_each,
    read_request_file,
    write_result_table,
)
from sidtool.recommendation.search import Normalize
from sidtool.registry import push
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.cli.road import write_lines
from tests.data.split.cases import split_of
from tests.evaluation.shop import shop, visits
from tests.loaded import loaded_model
from tests.memory.rerankers import random_reranker, reranked_model
from tests.recommendation.serve.disk import catalog_bundle, save_model


def write_requests(folder: Path) -> list[dict[str, Any]]:
    """Requests of 21 users in three files: one unknown item, one request that is none."""
    rows: list[dict[str, Any]] = [
        {"user": f"u{n}", "history": [f"i{n}", f"i{2 * n}"], "deny": [f"i{n + 1}"]}
        for n in range(21)
    ]
    rows[5]["history"] = ["gone", "i3"]
    rows[13]["history"] = None
    folder.mkdir()
    for number, part in enumerate((rows[:3], rows[3:4], rows[4:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{number}.parquet")
    return rows


@pytest.mark.parametrize(
    ("shard_rows", "reranked"), [(4, False), (8, False), (100, False), (4, True)]
)
def test_the_rows_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int, reranked: bool
) -> None:
    monkeypatch.setattr("sidtool.recommendation.recommendations.WINDOW", 4)
    loaded = loaded_model(small_bundle(60))
    source: Any = LoadedSource(reranked_model() if reranked else loaded)
    rows = write_requests(tmp_path / "requests")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all.parquet")
    options = RecommendOptions(k=3, exclude_seen=True)
    requests = read_request_file(tmp_path / "all.parquet")
    with pytest.warns(SidtoolWarning) as one_process:
        answers = [answer.to_json() for answer in answer_each(source.load(), requests, options)]
    write_lines(tmp_path / "lines", answers)
    write_result_table(tmp_path / "lines", tmp_path / "one.parquet")
    with pytest.warns(SidtoolWarning) as over_folder:
        outcome = recommend_folder(
            source, tmp_path / "requests", tmp_path / "out", options, shard_rows=shard_rows
        )
    said, expected_said = (
        [str(warning.message) for warning in record if warning.category is SidtoolWarning]
        for record in (over_folder, one_process)
    )
    assert said == expected_said
    expected = pq.read_table(tmp_path / "one.parquet").to_pylist()
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert len(parts) == -(-21 // shard_rows)
    actual = [row for part in parts for row in pq.read_table(part).to_pylist()]
    bad = 13
    assert actual[bad]["line"] == expected[bad]["line"] == bad + 1
    assert actual[bad]["error"].startswith(f"row 14 of {tmp_path / 'requests'}: ")
    others = [[row for n, row in enumerate(rows) if n != bad] for rows in (actual, expected)]
    assert others[0] == others[1]
    assert (outcome.requests, outcome.bad, outcome.short) == (21, 1, 0)
    with pytest.raises(DataError, match="row 14 of"):
        outcome.raise_bad()


def test_ids_of_lists_that_the_bundle_lacks_are_said_once(tmp_path: Path) -> None:
    loaded = loaded_model(small_bundle(60))
    source: Any = LoadedSource(loaded)
    pq.write_table(pa.table({"history": [["i1"], ["i2"]]}), tmp_path / "requests.parquet")
    recommend = partial(recommend_folder, source, tmp_path / "requests.parquet", shard_rows=1)
    with pytest.warns(SidtoolWarning) as record:
        recommend(tmp_path / "out", k=2, allow=("i3", "gone", "i5"), deny=("i7", "lost"))
    said = [str(warning.message) for warning in record if warning.category is SidtoolWarning]
    assert said == [
        "the allow list has 1 of 3 ids that the bundle lacks: 'gone'",
        "the deny list has 1 of 2 ids that the bundle lacks: 'lost'",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deny": ("gone", "i1"), "strict": True}, "the deny list has 1 of 2 ids"),
        ({"allow": ("gone",)}, "none of the 1 ids of the allow list"),
        ({"candidates": ["i1", "gone"]}, "candidate 'gone' is not in the bundle"),
        ({"candidates": Path("gone.txt")}, "gone.txt"),
        ({"explain": True}, "--explain needs a memory"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    source: Any = Mock(wraps=LoadedSource(loaded_model(small_bundle(60))))
    source.with_versions = lambda: source
    pq.write_table(pa.table({"history": [["i1"]]}), tmp_path / "requests.parquet")
    with pytest.raises((DataError, UsageError), match=message):
        recommend_folder(source, tmp_path / "requests.parquet", tmp_path / "out", **options)
    source.load.assert_not_called()


def test_stop_raises_the_error_of_a_bad_request(tmp_path: Path) -> None:
    source: Any = LoadedSource(loaded_model(small_bundle(60)))
    write_requests(tmp_path / "requests")
    places = (str(tmp_path / "requests"), str(tmp_path / "out"))
    with pytest.raises(DataError, match="row 14 of"):
        recommend_folder(source, *places, stop=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("with_memory", "reranked"), [(False, False), (True, False), (True, True)])
def test_the_evaluation_is_the_same(
    monkeypatch: pytest.MonkeyPatch, with_memory: bool, reranked: bool
) -> None:
    monkeypatch.setattr("sidtool.recommendation.query.WINDOW", 4)
    monkeypatch.setattr("sidtool.evaluation.ranking.WINDOW", 4)
    loaded = loaded_model(shop(shared=False))
    events, examples = visits(users=11)
    if with_memory:
        memory = build_memory(Split("leave-one-out", tuple(events), (), ()), loaded.bundle)
        reranker = random_reranker(memory.manifest) if reranked else None
        loaded = replace(loaded, memory=WeightedMemory(memory, reranker=reranker))
    source: Any = LoadedSource(loaded)
    ranker = ClusterRanker(source, engine="local", examples=8)
    normalize: Normalize = "trie" if with_memory else "vocabulary"
    options = EvaluationOptions(ks=(5,), num_beams=10, exclude_seen=True, normalize=normalize)
    expected = evaluate_examples(loaded, examples, events, options)
    seen: list[tuple[int, int]] = []
    evaluate = partial(evaluate_examples, loaded, examples, events, options, ranker=ranker)
    actual = evaluate(progress=lambda *step: seen.append(step))
    assert actual.to_json() == expected.to_json()
    mixture = actual.baselines.get("mixture")
    assert (mixture is not None and mixture != actual.metrics) == reranked
    n_passes = 2 if with_memory else 1  # a model with a memory is ranked alone, too
    assert seen[-1] == (11 * n_passes, 11 * n_passes)
    assert expected.values is not None
    np.testing.assert_array_equal(actual.values.values, expected.values.values)


def test_the_record_has_the_digest_of_a_memory(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model", seed=0))
    location = tmp_path / "memory.zarr"
    source = ModelSource(model, memory=MemoryOptions(location))
    records = []
    for step in (1, 2):
        memory = build_memory(split_of([["b000", f"b{step:03d}"]]), catalog_bundle())
        memory.save(location, force=True)
        records.append(source.record(*source.check()))
        assert records[-1]["memory"]["digest"] == memory.digest
    assert records[0] != records[1]
    alone = ModelSource(model)
    assert "digest" not in alone.record(*alone.check())["memory"]


def test_every_worker_loads_the_versions_that_the_command_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shops = [str(tmp_path / name) for name in ("models", "memories", "bundles")]
    memory = build_memory(split_of([["b000", "b001"]]), catalog_bundle())
    memory.save(tmp_path / "memory.zarr")
    catalog_bundle().save(tmp_path / "bundle.zarr")
    sources = (save_model(tmp_path / "model", seed=0), "memory.zarr", "bundle.zarr")
    for source, folder in zip(sources, shops, strict=True):
        push(tmp_path / source, folder, tag="prod")

    def source_at(version: str) -> ModelSource:
        model, memory, bundle = (f"{folder}@{version}" for folder in shops)
        return ModelSource(model, MemoryOptions(memory), bundle=bundle)

    assert ClusterRanker(source_at("prod"), engine="local").source == source_at("1.0")
    run = Mock(return_value=RunReport(0, {}, ()))
    monkeypatch.setattr("sidtool.integrations.cluster.recommendations.run_over_folder", run)
    recommend_folder(source_at("prod"), tmp_path, tmp_path / "out")
    run.assert_called_once()
    work: Any = run.call_args.args[0]
    assert work.args[0] == source_at("1.0")


@dataclass(frozen=True)
class LoadedSource:
    """As `ModelSource`, in this process only."""

    loaded: LoadedModel

    def with_versions(self) -> "LoadedSource":
        return self

    def load(self) -> LoadedModel:
        return self.loaded

    def check(self) -> tuple[Contract, Bundle, WeightedMemory | None]:
        return self.loaded.contract, self.loaded.bundle, self.loaded.memory

    def record(
        self, contract: Contract, bundle: Bundle, memory: WeightedMemory | None
    ) -> dict[str, Any]:
        """What a lineage says of it."""
        return {"model": "loaded", "bundle": bundle.identity.digest}
