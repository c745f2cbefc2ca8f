"""The record of a model that workers open."""

from pathlib import Path

from sidtool.data.split.split import Split
from sidtool.data.split.values import UserSequence
from sidtool.integrations.ray.models import ModelSource
from sidtool.memory.build import build_memory
from sidtool.memory.index import MemoryOptions
from tests.recommendation.serve.disk import catalog_bundle, save_model


def test_the_record_has_the_digest_of_a_memory(tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model", seed=0))
    location = tmp_path / "memory.zarr"
    source = ModelSource(model, memory=MemoryOptions(location))
    records = []
    for step in (1, 2):
        user = UserSequence("u", ("b000", f"b{step:03d}"), (1, 2))
        memory = build_memory(Split("leave-one-out", (user,), (), ()), catalog_bundle())
        memory.save(location, force=True)
        records.append(source.record())
        assert records[-1]["memory"]["digest"] == memory.digest
    assert records[0] != records[1]
    assert "digest" not in ModelSource(model).record()["memory"]
