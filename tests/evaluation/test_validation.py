from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.data.split import Example
from sidtool.evaluation import (
    IndexedExamples,
    Validator,
    baselines,
    rank_examples,
    sample_examples,
    validation,
)
from sidtool.evaluation.baselines import baseline_values, item_knn_metrics
from sidtool.evaluation.ranking import SystemValues
from sidtool.model.prompt import HistoryPrompt
from sidtool.recommendation import QuerySession
from sidtool.recommendation.search import Normalize
from sidtool.recommendation.search.score import score_sids
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.evaluation.shop import shop, visits
from tests.loaded import loaded_model

N = 40


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return small_bundle(N)


def validator(
    bundle: Bundle, examples: Any, *, k: int = N, normalize: Normalize = "level", **options: Any
) -> tuple[Validator, Any]:
    loaded = loaded_model(bundle)
    session = QuerySession.of(loaded, normalize)
    return Validator(examples, session, users=0, num_beams=N, k=k, seed=0, **options), loaded.model


def test_seen_items_are_excluded_on_request(bundle: Bundle) -> None:
    again = [Example(f"u{number}", (f"i{number}", "i20"), f"i{number}", 2) for number in range(8)]
    fresh = [Example(f"v{number}", ("i20", "i21"), f"i{number}", 2) for number in range(8)]
    shown, model = validator(bundle, [*again, *fresh])
    # the whole catalog is recommended: every target is a hit
    assert shown.sums(model)[[0, 4]].tolist() == [16, 16]
    hidden, _ = validator(bundle, [*again, *fresh], exclude_seen=True)
    assert hidden.sums(model)[[0, 4]].tolist() == [8, 16]
    assert hidden.sums(model, 0, 2) + hidden.sums(model, 1, 2) == pytest.approx(hidden.sums(model))


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_shared_sids_are_measured_as_in_an_evaluation(exclude_seen: bool) -> None:
    _, examples = visits()  # some targets are seen
    catalog = shop(shared=True)
    made, model = validator(catalog, examples, k=5, exclude_seen=exclude_seen)
    loaded = loaded_model(catalog)
    indexed = IndexedExamples.of(catalog, examples, exclude_seen=exclude_seen)
    ranked = rank_examples(loaded, indexed, k=5, num_beams=N)
    values = SystemValues.of(indexed, ranked, [5]).values
    figures = made.figures(made.sums(model))
    expected = values[:, :2].mean(axis=0)
    assert 0 < figures["hr@5"] == pytest.approx(expected[0])
    assert figures["ndcg@5"] == pytest.approx(expected[1])


def test_the_loss_is_that_of_the_targets_sid(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [*(f"i{number}" for number in range(8)), "an item that the bundle lacks"]
    examples = [Example(f"u{target}", ("i20", "i21"), target, 2) for target in targets]
    made, model = validator(bundle, examples, normalize="trie", exclude_seen=True)
    session = made._session
    prompts = [query.prompt for query in made._queries[:8]]
    codes = bundle.items.codes[bundle.items.rows(targets[:8])]
    scores = score_sids(model, prompts, codes, session.tokens, normalize="trie", trie=bundle.trie())
    figures = made.figures(made.sums(model))
    assert figures["loss"] == pytest.approx(-np.diagonal(scores).mean(), rel=1e-4)
    monkeypatch.setattr(validation, "LOSS_USERS", 3)
    made, _ = validator(bundle, examples, normalize="trie")
    assert made.sums(model)[[4, 6]].tolist() == [9, 3]


def test_a_history_that_the_bundle_lacks_has_no_loss() -> None:
    bundle = small_bundle(N, begin_end_tokens=False)  # nothing is left of its prompt
    sids_alone = HistoryPrompt("sequence", "{history}", 5, 200)
    session = QuerySession.of(loaded := loaded_model(bundle, history_prompt=sids_alone))
    examples = [Example("u", ("i20",), "i1", 1), Example("v", ("unknown",), "i0", 1)]
    made = Validator(examples, session, users=0, num_beams=N, k=N, seed=0)
    assert made.sums(loaded.model)[[0, 4, 6]].tolist() == [1, 2, 1]


def test_figures_have_intervals_and_item_knn(bundle: Bundle) -> None:
    examples = [Example(f"u{number}", ("i20", "i21"), f"i{number}", 2) for number in range(16)]
    made, model = validator(bundle, examples, k=5)
    made.item_knn = {"ndcg@5": 0.25}
    figures = made.figures(made.sums(model))
    mean = figures["hr@5"]
    half_width = 1.96 * (mean * (1 - mean) / 16) ** 0.5  # of a share of 16 users
    assert figures["hr@5_high"] == pytest.approx(mean + half_width)
    assert figures["hr@5_low"] == pytest.approx(max(0, mean - half_width))
    assert made.figures([1, 1, 1, 1, 2, 0, 0])["hr@5_high"] == 1  # not 1.19
    assert figures["ndcg@5_item_knn"] == 0.25
    assert "hr@5_item_knn" not in figures


def test_item_knn_is_as_in_an_evaluation_on_the_same_users(monkeypatch: pytest.MonkeyPatch) -> None:
    events, examples = visits()
    catalog = shop(shared=False)
    drawn = sample_examples(examples, 12, 3)
    with pytest.raises(DataError, match="the validation file has no users"):
        sample_examples((), 12, 3)
    indexed = IndexedExamples.of(catalog, drawn, exclude_seen=True)
    measured = item_knn_metrics(examples, indexed, 10)
    expected = baseline_values(indexed, events, [10], k=10)["item-knn"]
    means = dict(zip(expected.names, expected.values.mean(axis=0), strict=True))
    assert set(measured) == {"hr@10", "ndcg@10"}
    assert measured == {name: pytest.approx(means[name]) for name in measured}
    monkeypatch.setattr(baselines, "MOST_EVENTS", 10)
    assert item_knn_metrics(examples, indexed, 10) == {}
