import base64
import math
from dataclasses import replace

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.memory.manifest import ContentSettings, KnnSettings
from sidtool.memory.mixture.reranker import N_FEATURES, RERANK_FEATURES, TRAINING_EVENTS, Reranker
from tests.memory.cases import small_memory
from tests.memory.rerankers import random_reranker

MANIFEST = small_memory().manifest


def test_it_is_read_as_it_was_written() -> None:
    fitted = random_reranker(MANIFEST, networks=3, scale=0.5)
    read = Reranker.from_json(fitted.to_json())
    read.check()
    assert read == fitted
    assert len(RERANK_FEATURES) == 22
    inputs = np.random.default_rng(1).normal(size=(5, N_FEATURES)).astype(np.float32)
    assert np.array_equal(read.scores(inputs), fitted.scores(inputs))
    assert len(base64.b64decode(fitted.weights)) == 3 * 14_104


def test_its_scores_are_those_of_a_network_of_two_hidden_layers() -> None:
    fitted = random_reranker(MANIFEST, networks=2, scale=0.5)
    inputs = np.random.default_rng(1).normal(size=(4, N_FEATURES))

    def gelu(value: float) -> float:
        inner = math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)
        return value / 2 * (1 + math.tanh(inner))

    for x, score in zip(inputs, fitted.scores(inputs.astype(np.float32)), strict=True):
        total = 0.0
        for first, first_bias, second, second_bias, output, linear in fitted.networks:
            hidden = np.array([gelu(value) for value in x @ first + first_bias])
            hidden = np.array([gelu(value) for value in hidden @ second + second_bias])
            total += hidden @ output + x @ linear
        assert score == pytest.approx(0.5 * total / 2, rel=1e-4, abs=1e-5)


def test_features_count_in_standard_deviations_up_to_five() -> None:
    fitted = random_reranker(MANIFEST)
    means, scales = np.array(fitted.means), np.array(fitted.scales)
    for deviations, counted in ((2.0, 2.0), (-4.9, -4.9), (80.0, 5.0), (-6.0, -5.0)):
        features = means + deviations * scales
        assert fitted.standardized(features) == pytest.approx(counted, abs=1e-4)


def test_a_contribution_is_what_the_score_loses_without_the_feature() -> None:
    fitted = random_reranker(MANIFEST, strength=0)
    inputs = np.ones((2, N_FEATURES), dtype=np.float32)
    assert not fitted.contributions(inputs).any()
    linear = fitted.networks[0]._replace(linear=np.arange(N_FEATURES, dtype=np.float32))
    values = Reranker.of(
        fitted.means, fitted.scales, [linear], MANIFEST, scale=1.0, exclude_seen=False
    )
    assert values.contributions(inputs) == pytest.approx(np.tile(np.arange(N_FEATURES), (2, 1)))


def test_features_that_came_after_it_was_fitted_change_nothing() -> None:
    fitted = random_reranker(MANIFEST, n_features=20, new_item_bonus=0.5)
    read = Reranker.from_json(fitted.to_json())
    read.check()
    features = np.random.default_rng(2).normal(size=(3, N_FEATURES)).astype(np.float32)
    others = features.copy()
    others[:, 20:] = 7.0
    inputs = read.standardized(features)
    assert inputs.shape == (3, 20)
    assert np.array_equal(read.standardized(others), inputs)
    assert np.array_equal(read.scores(inputs), fitted.scores(inputs))
    assert read.contributions(inputs).shape == (3, 20)
    names = {feature.name for feature in RERANK_FEATURES[:20]}
    assert all(raised.keys() <= names for raised in read.raised_by(inputs, N_FEATURES))
    features[1, TRAINING_EVENTS] = 0
    assert read.bonuses(features).tolist() == [0.0, 0.5, 0.0]


def check_stored(value: dict[str, object], *, is_sealed: bool) -> None:
    """Read and check a re-ranker; a sealed one has the digest of its values."""
    read = Reranker.from_json(value)
    (replace(read, digest=read.values_digest) if is_sealed else read).check()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"means": (0.0,)}, "a re-ranker of 1 of the 22 features has 22 scales"),
        ({"means": ()}, "a re-ranker of 0 of the 22 features has 0 means"),
        ({"means": (0.0,) * 23, "scales": (1.0,) * 23}, "of 23 of the 22 features has 23 means"),
        ({"means": (1e9,) * 22}, "of a re-ranker's means is larger than 1e"),
        ({"scales": (0.0,) * 22}, "a scale of a re-ranker is at least 1e-06"),
        ({"scale": 0.0}, "scale is above 0 and at most 1, not 0"),
        ({"weights": "?"}, "not base64"),
        ({"weights": ""}, "1 to 16 networks of 14104 bytes, not 0 bytes"),
        ({"weights": "AAAA"}, "not 3 bytes"),
        ({"weights": base64.b64encode(b"\xff" * 14_104).decode()}, "larger than 1e"),
        ({"scale": 0.5}, r"the re-ranker has digest \w+, its values \w+"),
        ({"exclude_seen": True}, "has digest"),
        ({"digest": "00"}, "has digest 00"),
    ],
)
def test_damage_is_refused_in_one_line(changed: dict[str, object], message: str) -> None:
    fitted = random_reranker(MANIFEST)
    with pytest.raises(UsageError, match=message):
        check_stored({**fitted.to_json(), **changed}, is_sealed="weights" in changed)


def test_a_memory_of_other_settings_is_refused_and_one_of_other_events_is_not() -> None:
    fitted = random_reranker(MANIFEST)
    fitted.check_memory(small_memory(seed=5).manifest)
    with pytest.raises(CompatibilityError, match=r"recency 0\.5"):
        fitted.check_memory(small_memory(settings=KnnSettings(recency=0.5)).manifest)
    content = ContentSettings("vectors", 0.8, "00")
    with pytest.raises(CompatibilityError, match="memory of content none, this memory has source"):
        fitted.check_memory(replace(MANIFEST, content=content))
    with_content = random_reranker(replace(MANIFEST, content=content))
    with_content.check_memory(replace(MANIFEST, content=replace(content, vectors="11")))
