from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, DataError
from sidtool.evaluation import EvaluationOptions
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.held_out import check_same_catalog
from tests.evaluation.shop import shop, visits
from tests.loaded import HISTORY_PROMPT, loaded_model


def test_bundles_of_the_same_active_items_pass() -> None:
    check_same_catalog(shop(shared=False), shop(shared=True))
    # an item that is retired in one and absent from the other is active in neither
    check_same_catalog(shop(shared=False, items=6), shop(shared=False, items=7, retired=["i6"]))


@pytest.mark.parametrize("other", [{"items": 39}, {"retired": ["i39"]}])
def test_other_items_are_refused_both_ways(other: dict[str, object]) -> None:
    bundles = [shop(shared=False), shop(shared=True, **other)]  # type: ignore[arg-type]
    for one, two in (bundles, bundles[::-1]):
        with pytest.raises(CompatibilityError, match=r"1 active items.*first is 'i39'") as refusal:
            check_same_catalog(one, two)
        assert "sidtool rebind" in refusal.value.shell_hint  # --bundle is for the first model


def test_a_model_of_another_bundle_is_one_more_system() -> None:
    bundle = shop(shared=False)
    events, examples = visits()
    options = EvaluationOptions(ks=(5, 10), num_beams=10, exclude_seen=True)
    other = loaded_model(shop(shared=True))
    result = evaluate_examples(loaded_model(bundle), examples, events, options, against=other)
    alone = evaluate_examples(other, examples, events, options)
    for part, other_part in ((result, alone), (result.slices["rare"], alone.slices["rare"])):
        assert part.baselines["other model"] == other_part.metrics
        difference = part.differences["other model"]["ndcg@10"]
        gain = part.metrics["ndcg@10"] - other_part.metrics["ndcg@10"]
        assert difference.mean == pytest.approx(gain)
        assert difference.low <= gain <= difference.high
    for sample, expected in zip(result.samples, alone.samples, strict=True):
        assert sample.recommended["other model"] == expected.recommended["model"]
    assert result.coverage["other model"] == alone.coverage["model"]
    digest = other.bundle.identity.digest
    assert result.settings["against"] == {"bundle": digest, "normalize": "level"}
    fewer = loaded_model(shop(shared=False, retired=["i3"]))
    with pytest.raises(CompatibilityError, match="different catalogs"):
        evaluate_examples(loaded_model(bundle), examples, events, options, against=fewer)


def test_a_model_that_cannot_be_queried_is_refused_before_another_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = shop(shared=False)
    events, examples = visits()
    monkeypatch.setattr(
        "sidtool.evaluation.evaluation.rank_examples", Mock(side_effect=AssertionError)
    )
    pair = (loaded_model(bundle), loaded_model(bundle, history_prompt=None))
    for (one, other), name in ((pair, "other model"), (pair[::-1], "model")):
        with pytest.raises(DataError, match=f"the {name} was not trained to recommend"):
            evaluate_examples(one, examples, events, against=other)
    prompt = replace(HISTORY_PROMPT, template="{user.age}{history}")
    pair = (loaded_model(bundle), loaded_model(bundle, history_prompt=prompt))
    for one, other in (pair, pair[::-1]):
        with pytest.raises(DataError, match=r"shows {user\.age}, which the request lacks"):
            evaluate_examples(one, examples, events, against=other)


def test_items_that_a_model_has_no_tokens_for_are_not_in_its_catalog() -> None:
    whole = shop(shared=False)
    adopted = whole.without(np.array([0, 1]))
    for one, other in ((whole, adopted), (adopted, whole)):
        with pytest.raises(CompatibilityError, match="2 active items"):
            check_same_catalog(one, other)
    check_same_catalog(adopted, adopted)
