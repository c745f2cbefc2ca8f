import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.model.load import LoadedModel
from sidtool.model.prompt.prompts import ListPrompt
from sidtool.recommendation.query import QuerySession
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import answer_each, recommend, recommend_to_file
from sidtool.recommendation.requests import Recommendation, Request
from sidtool.recommendation.search.list_search import search_lists
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.recommendation.test_recommend_memory import mixed

LIST_PROMPT = ListPrompt("list", "The history: {history}\nNext 4:", 5, 200, list_length=4)


IDS = [f"i{number}" for number in range(60)]


def list_shop(*, duplicates: bool = False, max_positions: int = 512) -> LoadedModel:
    """A model that has a prompt of lists."""
    loaded = loaded_model(small_bundle(60, duplicates=duplicates), "qwen2")
    loaded.model.config.max_position_embeddings = max_positions
    return replace(loaded, contract=replace(loaded.contract, list_prompt=LIST_PROMPT))


@pytest.fixture(scope="module")
def shop() -> LoadedModel:
    return list_shop()


def lists_of(shop: LoadedModel, requests: Any, **options: Any) -> list[Recommendation]:
    """The lists of requests, four items each."""
    options = {"k": 4, "num_beams": 3, "list": True, **options}
    return list(recommend(shop, requests, RecommendOptions(**options)))


def test_a_list_is_that_of_the_decoder_after_the_prompt_of_lists(shop: LoadedModel) -> None:
    requests = [Request(f"u{n}", tuple(IDS[n : n + 3])) for n in range(4)]
    answers = lists_of(shop, requests)
    session = QuerySession.of(shop, list_length=4)
    rows = [shop.bundle.items.rows(request.history) for request in requests]
    prompts = [session.from_history(history) for history in rows]
    text = shop.tokenizer.decode(prompts[0])
    assert text.startswith("The history: ")
    assert "Next 4:" in text
    trie, tokens = session.trie, session.tokens
    expected = search_lists(shop.model, prompts, trie, tokens, length=4, num_beams=3)
    for request, answer, (ranked,) in zip(requests, answers, expected, strict=True):
        assert answer.user == request.user
        assert [shop.bundle.items.row(item) for item in answer.items] == ranked.positions.tolist()
        assert list(answer.scores) == ranked.scores.tolist()
        assert answer.list_score == pytest.approx(ranked.scores.sum(), abs=1e-5)
        assert answer.missing == 0
        assert json.loads(json.dumps(answer.to_json()))["list_score"] == answer.list_score


def test_filters_hold_for_every_place_of_a_list(shop: LoadedModel) -> None:
    requests = [
        Request("few", tuple(IDS[:3]), allow=tuple(IDS[:5])),
        Request("none", tuple(IDS[:3]), allow=tuple(IDS[:3])),
        Request("denied", tuple(IDS[:3]), deny=tuple(IDS[3:58])),
    ]
    few, none, denied = lists_of(shop, requests, exclude_seen=True)
    assert (set(few.items), few.missing) == (set(IDS[3:5]), 2)
    assert (none.items, none.list_score) == ((), 0)
    assert set(denied.items) == set(IDS[58:])


def test_candidates_are_what_a_list_may_contain(shop: LoadedModel) -> None:
    candidates = IDS[10:16]
    options = RecommendOptions(k=6, num_beams=3, list=True)
    with pytest.warns(SidtoolWarning, match="lists of 4 items, not 6"):
        (answer,) = recommend(shop, [Request("u", (IDS[0],))], options, candidates=candidates)
    assert sorted(answer.items) == sorted(candidates)


def test_items_that_share_a_sid_are_each_in_a_list_once() -> None:
    shop = list_shop(duplicates=True)
    allowed = tuple(shop.bundle.items.ids)[:12]
    options = RecommendOptions(k=20, num_beams=2, allow=allowed, list=True)
    with pytest.warns(SidtoolWarning, match="not 20"):
        (answer,) = recommend(shop, [Request("u", (IDS[30],))], options)
    assert sorted(answer.items) == sorted(allowed)
    assert len(set(answer.sids)) < len(answer.sids)
    assert answer.missing == 8


def test_a_model_that_was_not_trained_on_lists_is_refused() -> None:
    plain = loaded_model(small_bundle(60), "qwen2")
    with pytest.raises(DataError, match="not trained on lists"):
        lists_of(plain, [Request("u", ("b001",))])


def test_texts_explanations_and_memories_are_refused(shop: LoadedModel) -> None:
    (bad,) = answer_each(shop, [Request(text="red")], RecommendOptions(k=2, list=True), stop=False)
    assert "follows a history" in str(bad.error)
    with pytest.raises(UsageError, match="no explanation"):
        RecommendOptions(list=True, explain=True)
    loaded = replace(shop, contract=replace(shop.contract, normalize="trie"))
    with pytest.raises(UsageError, match="they are not mixed with a memory"):
        lists_of(mixed(loaded, 0.5), [Request("u", ("b001",))])


def test_a_list_has_room_in_the_positions_of_the_model() -> None:
    shop = list_shop(max_positions=45)
    session = QuerySession.of(shop, list_length=4)
    levels = shop.contract.space.levels
    # three items with their begin and end tokens, and one without its last code
    assert session.history_prompt.max_length == 45 - 3 * (levels + 2) - (levels - 1)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_lists_are_written_to_files(shop: LoadedModel, tmp_path: Path, name: str) -> None:
    requests = [Request("u1", (IDS[0],)), Request("u2", tuple(IDS[1:3]))]
    options = RecommendOptions(k=4, num_beams=2, list=True)
    recommend_to_file(shop, requests, tmp_path / name, options)
    if name.endswith("jsonl"):
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    else:
        rows = pq.read_table(tmp_path / name).to_pylist()
    assert [row["user"] for row in rows] == ["u1", "u2"]
    assert all(row["list_score"] == pytest.approx(sum(row["scores"])) for row in rows)
