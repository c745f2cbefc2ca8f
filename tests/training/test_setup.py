"""What a training is set up with."""

from types import SimpleNamespace
from typing import Any

import pytest

from sidtool.training.settings import TrainOptions
from sidtool.training.setup import _item_knn
from tests.evaluation.shop import shop, visits


@pytest.mark.parametrize(
    ("protocol", "is_known"),
    [("leave-one-out", True), ("last-session", True), ("temporal", False), ("given", False)],
)
def test_the_line_to_beat_needs_the_training_events_in_the_histories(
    protocol: str, is_known: bool
) -> None:
    _, examples = visits()
    run: Any = SimpleNamespace(
        lineage=SimpleNamespace(split=SimpleNamespace(protocol=protocol)),
        bundle=shop(shared=False),
        options=TrainOptions(metric_for_best_model="hr@5"),
        seed=0,
    )
    metrics = _item_knn(run, examples)
    if is_known:
        assert metrics is not None
        assert set(metrics) == {"hr@5", "ndcg@5"}
    else:
        assert metrics is None
