"""Validation by constrained recommendations."""

from typing import Any

import numpy as np
import pytest

from sidtool.data.split.values import Example
from sidtool.evaluation.validation import Validator
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.results import Normalize
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.bundles import small_bundle
from tests.models import tiny_model, tiny_tokenizer

N = 40


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return small_bundle(N)


def validator(
    bundle: Bundle, examples: Any, *, k: int = N, **options: Any
) -> tuple[Validator, Any]:
    tokenizer = tiny_tokenizer()
    tokens = SidTokens(bundle.space, len(tokenizer))
    history_prompt = HistoryPrompt("next-item", "The history: {history}\nNext:", 5, 100)
    made = Validator(
        examples,
        bundle,
        history_prompt,
        tokenizer,
        tokens,
        users=0,
        num_beams=N,
        k=k,
        seed=0,
        **options,
    )
    return made, tiny_model("llama", vocab_size=tokens.stop)


def test_seen_items_are_excluded_on_request(bundle: Bundle) -> None:
    again = [Example(f"u{number}", (f"i{number}", "i20"), f"i{number}", 2) for number in range(8)]
    fresh = [Example(f"v{number}", ("i20", "i21"), f"i{number}", 2) for number in range(8)]
    shown, model = validator(bundle, [*again, *fresh])
    assert shown.sums(model)[[0, 2]].tolist() == [
        16,
        16,
    ]  # the whole catalog is recommended: every target is a hit
    hidden, _ = validator(bundle, [*again, *fresh], exclude_seen=True)
    assert hidden.sums(model)[[0, 2]].tolist() == [8, 16]
    assert hidden.sums(model, 0, 2) + hidden.sums(model, 1, 2) == pytest.approx(hidden.sums(model))


def test_scores_are_normalized_as_requested(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidtool.recommendation.search import beam

    examples = [Example(f"u{number}", ("i20", f"i{number}"), "i30", 2) for number in range(8)]
    ranked: dict[Normalize, list[Any]] = {}
    search = beam.beam_search
    for normalize in ("level", "trie"):
        result = ranked.setdefault(normalize, [])
        monkeypatch.setattr(
            beam, "beam_search", lambda *a, f=result, **k: f.extend(search(*a, **k)) or f
        )
        made, model = validator(bundle, examples, k=5, normalize=normalize)
        made.sums(model)
    for level, trie in zip(ranked["level"], ranked["trie"], strict=True):
        assert np.exp(level.scores).sum() < np.exp(trie.scores).sum() <= 1
