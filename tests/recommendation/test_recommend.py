import io
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sidtool.base.errors import (
    DataError,
    MissingPackageError,
    SidtoolError,
    SidtoolWarning,
    UsageError,
)
from sidtool.data import Fields
from sidtool.model.load import LoadedModel
from sidtool.model.prompt.prompts import HistoryPrompt, TextPrompt
from sidtool.recommendation import recommendations as module
from sidtool.recommendation.query import Query, QuerySession
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import answer_each, recommend, recommend_to_file
from sidtool.recommendation.requests import BadRequest, Outcome, Recommendation, Request
from sidtool.recommendation.search.driver import tree_tokens
from sidtool.recommendation.windows import LiveRequests
from tests.bundles import small_bundle
from tests.loaded import loaded_model, with_prompts

IDS = [f"i{number}" for number in range(60)]


def shop_model(*, duplicates: bool = False, retired: tuple[int, ...] = ()) -> LoadedModel:
    bundle = small_bundle(60, duplicates=duplicates)
    bundle.items.retired[list(retired)] = True
    return loaded_model(bundle, "qwen2")


@pytest.fixture(scope="module")
def shop() -> LoadedModel:
    return shop_model()


@pytest.fixture(scope="module", params=["qwen2", "bart"])
def any_shop(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_model(small_bundle(60), request.param)


def answers_to(shop: LoadedModel, requests: Any, **options: Any) -> list[Recommendation]:
    return list(recommend(shop, requests, RecommendOptions(**options)))


def test_answers_come_in_the_order_of_the_requests(any_shop: LoadedModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "WINDOW", 4)
    requests = [Request(f"u{n}", tuple(IDS[n : n + n % 7])) for n in range(11)]
    reports: list[tuple[int, int]] = []
    options = RecommendOptions(k=5, num_beams=8)
    recommended = recommend(any_shop, requests, options, progress=lambda *at: reports.append(at))
    answers = list(recommended)
    assert [answer.user for answer in answers] == [f"u{n}" for n in range(11)]
    assert reports == [(4, 11), (8, 11), (11, 11)]
    items = any_shop.bundle.items
    for request, answer in zip(requests, answers, strict=True):
        assert len(set(answer.items)) == 5
        assert list(answer.scores) == sorted(answer.scores, reverse=True)
        for item, sid, title in zip(answer.items, answer.sids, answer.titles, strict=True):
            index = items.row(item)
            assert any_shop.bundle.space.parse(sid) == tuple(items.codes[index].tolist())
            assert title == items.title(index)
        (alone,) = recommend(any_shop, [request], options)
        assert alone.items == answer.items
    lines = [json.dumps({"user": one.user, "history": list(one.history)}) for one in requests]
    live = answer_each(any_shop, LiveRequests(io.BytesIO("\n".join(lines).encode())), options)
    assert [answer.items for answer in live] == [answer.items for answer in answers]


def test_a_text_is_queried_with_the_prompt_of_the_contract(shop: LoadedModel) -> None:
    text_prompt = TextPrompt("query-to-sid", "Wanted: {item}\nItem:", 100)
    by_text = with_prompts(shop, text_prompt=text_prompt)
    session = QuerySession.of(by_text)
    (answer,) = answers_to(by_text, [Request(text="red  <s_a_1>\ntoy")])
    query = Query(session.from_text("red <s_a_1> toy"))
    (expected,) = session.search(by_text.model, [query], k=10, num_beams=50)
    assert list(answer.scores) == expected.scores.tolist()
    seen = answer.items[0]
    request = Request(text="red <s_a_1> toy", history=(seen,))
    (unseen,) = answers_to(by_text, [request], exclude_seen=True)
    assert unseen.items[:-1] == answer.items[1:]
    with pytest.raises(UsageError, match="empty"):
        answers_to(by_text, [Request(text="  ")])
    with pytest.raises(DataError, match="not trained to find items by text"):
        answers_to(shop, [Request(text="red")])


def test_requests_are_read_in_windows(shop: LoadedModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "WINDOW", 3)
    read = []

    def requests() -> Iterator[Request]:
        for n in itertools.count():
            read.append(n)
            yield Request(str(n), ("i1",))

    answers = recommend(shop, requests(), RecommendOptions(k=2, num_beams=4))
    assert [next(answers).user for _ in range(4)] == ["0", "1", "2", "3"]
    assert len(read) == 6


def test_filters_of_the_run_and_of_a_request_are_combined(any_shop: LoadedModel) -> None:
    history = tuple(IDS[:4])
    requests = [
        Request("deny", history, deny=tuple(IDS[4:20])),
        Request("allow", history, allow=(*IDS[:2], *IDS[30:40])),
        Request("none", history, allow=()),
    ]
    answers = answers_to(any_shop, requests, k=60, num_beams=2, exclude_seen=True)
    items = {answer.user: answer.items for answer in answers}
    assert (sorted(items["deny"]), sorted(items["allow"])) == (sorted(IDS[20:]), sorted(IDS[30:40]))
    assert items["none"] == ()
    answers = answers_to(any_shop, requests, k=60, allow=tuple(IDS[:35]), deny=tuple(IDS[33:]))
    items = {answer.user: answer.items for answer in answers}
    assert sorted(items["deny"]) == sorted(IDS[:4] + IDS[20:33])
    assert sorted(items["allow"]) == sorted(IDS[:2] + IDS[30:33])
    with pytest.raises(DataError, match="allow list"):
        answers_to(any_shop, requests, allow=("nobody",))
    with pytest.raises(DataError, match="deny list"):
        answers_to(any_shop, requests, deny=("nobody",))


@pytest.mark.parametrize("k", [1, 7, 60, 1000])
def test_all_items_of_a_shared_sid_are_recommended(k: int) -> None:
    shop = shop_model(duplicates=True)
    (answer,) = answers_to(shop, [Request(history=("i1", "i2"))], k=k, num_beams=3)
    assert len(answer.items) == len(set(answer.items)) == min(k, 60)
    rows = shop.bundle.items.rows(answer.items)
    for (sid, row), (next_sid, next_row) in itertools.pairwise(zip(answer.sids, rows, strict=True)):
        assert sid != next_sid or next_row == row + 1
    if k >= 60:
        request = Request(history=("i1", "i2"), deny=answer.items[:1])
        (without_first,) = answers_to(shop, [request], k=k)
        assert set(without_first.items) == set(answer.items[1:])


def test_retired_items_are_never_recommended_and_may_be_denied() -> None:
    shop = shop_model(retired=(0, 1, 30, 59))
    ids = list(shop.bundle.items.ids)
    request = Request(history=(ids[0], ids[3]), deny=(ids[30], ids[31]))
    (answer,) = answers_to(shop, [request], k=100)
    excluded = {ids[row] for row in (0, 1, 30, 31, 59)}
    assert sorted(answer.items) == sorted(set(ids) - excluded)


def test_unknown_ids_are_skipped_and_counted(shop: LoadedModel) -> None:
    requests = [Request("a", ("x", "i1", "y")), Request("b", ("i1",))]
    with pytest.warns(SidtoolWarning, match="2 ids in the histories are not in the bundle"):
        with_unknown, without = recommend(shop, requests)
    assert (with_unknown.unknown, without.unknown) == (2, 0)
    assert with_unknown.items == without.items


BAD = BadRequest(DataError("line 2 of the requests is not JSON"), 2)


def mixed_requests(n: int) -> list[Request | BadRequest]:
    """Requests of which every third is malformed, and every fifth one that the model was not
    trained for."""
    requests: list[Request | BadRequest] = []
    for number in range(1, n + 1):
        if number % 3 == 0:
            requests.append(replace(BAD, line=number))
        elif number % 5 == 0:
            requests.append(Request(str(number), text="red", line=number))
        else:
            requests.append(Request(str(number), (f"i{number}",), line=number))
    return requests


@pytest.mark.parametrize("window", [4, 512])
def test_bad_requests_cost_no_answer(
    shop: LoadedModel, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", window)
    requests = mixed_requests(20)
    outcome = Outcome()
    answers = list(outcome.count(answer_each(shop, requests, RecommendOptions(k=3))))
    assert len(answers) == 20
    for number, answer in enumerate(answers, 1):
        if number % 3 == 0 or number % 5 == 0:
            assert isinstance(answer, BadRequest)
            assert answer.line == number
            assert answer.user == (None if number % 3 == 0 else str(number))
        else:
            (alone,) = answers_to(shop, [Request(str(number), (f"i{number}",))], k=3)
            assert answer.items == alone.items
    assert (outcome.requests, outcome.bad, outcome.short) == (20, 9, 0)
    with pytest.raises(DataError, match=r"^9 of 20 requests cannot be answered; the first: line 2"):
        outcome.raise_bad()


@pytest.mark.parametrize(
    ("place", "bad", "message"),
    [
        (1, BAD, "is not JSON"),
        (4, BAD, "is not JSON"),
        (8, 7, "list of item ids"),
        (1, {"n": 3}, "has the key"),
    ],
)
def test_the_answers_before_a_bad_request_are_given(
    shop: LoadedModel, place: int, bad: Any, message: str
) -> None:
    requests: list[Any] = [Request(str(number), ("i1",)) for number in range(1, 9)]
    requests[place - 1] = bad
    answers = recommend(shop, iter(requests), RecommendOptions(k=3))
    for number in range(1, place):
        assert next(answers).user == str(number)
    with pytest.raises(DataError, match=message):
        next(answers)


def test_a_resumed_run_counts_the_bad_requests_of_the_first(
    shop: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"

    def interrupted() -> Iterator[Request | BadRequest]:
        yield from mixed_requests(7)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "WINDOW", 4)
    with pytest.raises(KeyboardInterrupt):
        recommend_to_file(shop, interrupted(), out, RecommendOptions(k=2))
    recommend_to_file(shop, mixed_requests(7), tmp_path / "whole.jsonl", RecommendOptions(k=2))
    outcome = recommend_to_file(shop, mixed_requests(7), out, RecommendOptions(k=2), resume=True)
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert outcome.bad == 3


@pytest.mark.parametrize(
    ("request_", "options", "items"),
    [
        (Request(history=("i1",)), {"k": 100}, 60),
        (Request(history=("i1",), allow=("i2", "i3")), {}, 2),
        (Request(history=("i1",), allow=()), {}, 0),
        (Request(history=("i1",)), {"allow": ("i4",)}, 1),
        (Request(history=("i1",)), {"k": 60, "exclude_seen": True}, 59),
        (Request(history=("i1",), deny=("i2",)), {"k": 60}, 59),
    ],
)
def test_fewer_items_than_k_are_counted(
    shop: LoadedModel, request_: Request, options: dict[str, Any], items: int
) -> None:
    outcome = Outcome()
    (answer,) = outcome.count(answer_each(shop, [request_], RecommendOptions(**options)))
    k = options.get("k", 10)
    assert (len(answer.items), answer.missing, outcome.short) == (items, k - items, 1)
    assert answer.to_json()["missing"] == k - items


@pytest.mark.parametrize("name", ["allow", "deny"])
def test_unknown_ids_of_a_list_are_reported(shop: LoadedModel, name: str) -> None:
    ids = ("i1", "i2 ", "i3\u2028", "gone", "i4", "x")
    message = f"the {name} list has 4 of 6 ids that the bundle lacks: 'i2 ', "
    with pytest.warns(SidtoolWarning, match=message):
        answers_to(shop, [Request(history=("i1",))], k=1, **{name: ids})
    with pytest.raises(DataError, match=message):
        answers_to(shop, [Request(history=("i1",))], k=1, strict=True, **{name: ids})


@pytest.mark.parametrize("name", ["allow", "deny"])
def test_unknown_ids_of_a_list_of_a_request_are_counted(shop: LoadedModel, name: str) -> None:
    ids = {name: ("i2", "gone")}
    requests = [Request(history=("i1",), **ids), Request(history=("i1",))]
    with pytest.warns(SidtoolWarning, match=f"1 ids in the {name} lists"):
        first, second = recommend(shop, requests, RecommendOptions(k=1))
    assert (first.unknown_allowed, first.unknown_denied) == (name == "allow", name == "deny")
    assert (second.unknown_allowed, second.unknown_denied) == (0, 0)
    assert (first.items == ("i2",)) == (name == "allow")
    with pytest.raises(DataError, match=f"the {name} list of the request has 1 of 2 ids .* 'gone'"):
        answers_to(shop, requests, strict=True)


@pytest.mark.parametrize(
    ("normalize", "value", "architecture"),
    [
        ("trie", float("inf"), "gpt2"),
        ("vocabulary", float("nan"), "t5"),
        ("trie", float("inf"), "bart"),
    ],
)
def test_a_diverged_model_gives_no_empty_answers(
    normalize: Any, value: float, architecture: str
) -> None:
    shop = loaded_model(small_bundle(60), architecture)
    with torch.no_grad():
        for weight in shop.model.base_model.parameters():
            weight.fill_(value)
    with pytest.raises(DataError, match="not numbers"):
        answers_to(shop, [Request(history=("i1",))], normalize=normalize)


@pytest.mark.parametrize("beams", [5462, 10**5, 10**30])
def test_beams_that_take_gigabytes_are_refused(beams: int) -> None:
    assert tree_tokens(5461, 3, "SIDs") == 3 * 5461
    with pytest.raises(UsageError, match="beams are too many: 5461 fit"):
        tree_tokens(beams, 3, "SIDs")


def test_an_empty_prompt_gets_no_items_and_other_requests_are_answered(shop: LoadedModel) -> None:
    without_begin = replace(shop.contract.space, begin=None, end=None)
    prompt = HistoryPrompt("sequence", "{history}", 5, 100)
    contract = replace(shop.contract, space=without_begin, history_prompt=prompt)
    bare = replace(shop, contract=contract)
    options = RecommendOptions(k=3)
    requests = [Request(history=("no such item",)), Request(history=(IDS[0],))]
    with pytest.warns(SidtoolWarning, match="1 id"):
        empty, full = recommend(bare, requests, options)
    assert (empty.items, empty.unknown, len(full.items)) == ((), 1, 3)
    empty, full = recommend(bare, [Request(), requests[1]], options, candidates=IDS[:5])
    assert (empty.items, len(full.items)) == ((), 3)


def test_candidates_are_ranked_by_exact_scores(any_shop: LoadedModel) -> None:
    history = tuple(IDS[:4])
    (ranked,) = answers_to(any_shop, [Request(history=history)], k=60, num_beams=60)
    scores = dict(zip(ranked.items, ranked.scores, strict=True))
    request = Request(history=history, deny=(IDS[20],))
    options = RecommendOptions(k=60, exclude_seen=True, deny=(IDS[21],))
    (answer,) = recommend(any_shop, [request], options, candidates=IDS[:25])
    assert set(answer.items) == set(IDS[4:20] + IDS[22:25])
    expected = [scores[item] for item in answer.items]
    np.testing.assert_allclose(answer.scores, expected, atol=1e-4)
    with pytest.raises(DataError, match="'nobody' is not in the bundle"):
        next(recommend(any_shop, [request], options, candidates=["nobody"]))


def test_a_model_without_a_history_prompt_is_refused(shop: LoadedModel) -> None:
    with pytest.raises(DataError, match="not trained to recommend"):
        answers_to(with_prompts(shop), [Request()])


def test_a_file_has_the_lines_of_the_recommendations(shop: LoadedModel, tmp_path: Path) -> None:
    """tests/recommendation/test_result_file.py resumes one."""
    requests = [Request(str(n), (f"i{n}",)) for n in range(5)]
    out = tmp_path / "out.jsonl"
    recommend_to_file(shop, requests, out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    expected = [answer.to_json() for answer in recommend(shop, requests)]
    assert lines == json.loads(json.dumps(expected))
    with pytest.raises(UsageError, match="exists already"):
        recommend_to_file(shop, requests, out)


def test_a_prompt_may_show_titles(shop: LoadedModel) -> None:
    prompt = HistoryPrompt("next-item", "{history}.", 9, 90, history_as="title", separator=", ")
    ids = QuerySession.of(with_prompts(shop, history_prompt=prompt)).from_history(np.array([3, 1]))
    items = shop.bundle.items
    assert shop.tokenizer.decode(ids).startswith(f"{items.title(3)}, {items.title(1)}.")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (Fields({"age": float("nan")}), "user.age has nan"),
        (Fields({"age": 24}, {"rating": (5,)}), "event.rating has 1 values for 2 items"),
        (Fields({"age": 24}, times=(1, 2), time=pd.Timestamp("2030-01-01")), "a time is Timestamp"),
    ],
)
def test_fields_of_python_are_checked_as_those_of_a_file(
    shop: LoadedModel, fields: Any, message: str
) -> None:
    prompt = HistoryPrompt("next-item", "{user.age}{history}.", 9, 90)
    shop = with_prompts(shop, history_prompt=prompt)
    # the bundle lacks one: the fields of the other item are taken
    request = Request(history=(IDS[0], "no such item"), fields=fields)
    with pytest.raises(DataError, match=message):
        answers_to(shop, [request])
    with pytest.raises(DataError, match=message):
        answers_to(shop, [request.history], fields=fields)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bart"])
def test_a_prompt_fits_into_the_positions_of_the_model(architecture: str) -> None:
    shop = loaded_model(small_bundle(60), architecture)
    longest = HistoryPrompt("next-item", "The history: {history}\nNext:", 1000, 1 << 20)
    shop = with_prompts(shop, history_prompt=longest)
    positions = shop.model.config.max_position_embeddings
    history = tuple(IDS * (positions // 60))
    assert QuerySession.of(shop).from_history(np.arange(positions) % 60)[positions:] == []
    (answer,) = answers_to(shop, [Request("u", history)], k=5)
    assert len(answer.items) == 5
    (same,) = answers_to(shop, [Request("u", history[-positions:])], k=5)
    assert answer.items == same.items
    template = HistoryPrompt("next-item", "x " * 2 * positions + "{history}", 5, 1 << 20)
    with pytest.raises(DataError, match=f"the model has {positions} positions"):
        answers_to(with_prompts(shop, history_prompt=template), [Request("u", history)], k=5)
    if architecture == "llama":
        shop.model.config.max_position_embeddings = 2
        with pytest.raises(DataError, match="no position before an answer of task next-item"):
            QuerySession.of(shop)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (None, {"n": 3}, "there is no option n, known are num_beams, normalize, exclude_seen, k"),
        (RecommendOptions(), {"k": 3}, "options and the keyword k are both given: use one"),
        (None, {"k": 0}, "k must be at least 1, not 0"),
        (None, {"fields": {"user": {}}}, "fields are a Fields, like Fields(user={...}), not {'use"),
    ],
)
def test_a_wrong_keyword_is_refused_at_once(
    shop: LoadedModel, options: RecommendOptions | None, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        recommend(shop, [], options, **given)
    assert str(caught.value).startswith(message)


def test_lists_of_items_are_ids_or_a_file_of_them(shop: LoadedModel, tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(IDS[:3]))
    ids = pd.Series(IDS[:3], index=[7, 3, 9])
    for given in ({"allow": str(listed)}, {"candidates": listed}, {"candidates": ids}):
        (answer,) = recommend(shop, [()], k=9, **given)
        assert sorted(answer.items) == sorted(IDS[:3])
    with pytest.raises(DataError, match="candidate 'nobody' is not in the bundle"):
        recommend(shop, [()], candidates=pd.concat([ids, pd.Series(["nobody"])]))[0]
    for wrong in ({"allow": [7]}, {"deny": [7]}, {"candidates": [7]}):
        with pytest.raises(DataError, match=r"ids and titles are strings: .* int found"):
            recommend(shop, [()], **wrong)[0]


def test_a_history_or_a_mapping_is_a_request(shop: LoadedModel) -> None:
    ids = IDS[:2]
    expected = recommend(shop, [Request(history=tuple(ids))], k=3)[0].items
    spelled = [ids, tuple(ids), [*np.array(ids)], {"history": ids}, Request(history=tuple(ids))]
    for spelling in spelled:
        assert [answer.items for answer in recommend(shop, spelling, k=3)] == [expected]
    assert [answer.items for answer in recommend(shop, spelled, k=3)] == [expected] * 5
    assert [answer.items for answer in recommend(shop, iter(spelled), k=3)] == [expected] * 5
    with pytest.raises(DataError, match=f'strings or integers, not "{ids[0]}"'):
        recommend(shop, ids[0], k=3)[0]  # not a request for each character


def test_answers_as_a_table_of_pandas(shop: LoadedModel) -> None:
    none = Request("none", allow=(IDS[0],), deny=(IDS[0],))
    requests = [Request("u", (IDS[1],)), none, Request("v", (IDS[3],))]
    expected = []
    for place, answer in enumerate(answers_to(shop, requests, k=3)):
        rows = zip(answer.items, answer.titles, answer.sids, answer.scores, strict=True)
        expected += [(place, answer.user, rank, *row) for rank, row in enumerate(rows, 1)]
    table = recommend(shop, requests, k=3).to_pandas()
    assert list(table) == ["request", "user", "rank", "item_id", "title", "sid", "score"]
    assert list(table.itertuples(index=False, name=None)) == expected
    assert table["request"].tolist() == [0, 0, 0, 2, 2, 2]


def test_answers_to_a_list_are_kept_and_shown_by_titles(shop: LoadedModel) -> None:
    requests = [Request(f"u{n}", (IDS[n], "unknown")) for n in range(4)]
    recommendations = recommend(shop, requests, k=6)
    with pytest.warns(SidtoolWarning, match="4 ids in the histories are not in the bundle"):
        answers = list(recommendations)
    assert [answer.user for answer in answers] == ["u0", "u1", "u2", "u3"]
    assert len(recommendations) == 4
    assert (recommendations[3], recommendations[-4]) == (answers[3], next(recommendations))
    with pytest.raises(IndexError):
        recommendations[4]
    assert recommendations[1:3] == answers[1:3]
    shown = ["<4 recommendations>", *(f"  {answer!r}" for answer in answers[:3]), "  ..."]
    assert repr(recommendations).splitlines() == shown
    titles = " | ".join(answers[0].titles[:5])
    assert repr(answers[0]) == f"<6 items for u0 (1 unknown in the history): {titles} | ...>"
    nameless = replace(answers[0], user=None, unknown=0, items=("i7",), titles=("",))
    assert repr(nameless) == "<1 items: i7>"


def test_answers_to_an_iterator_are_read_once(shop: LoadedModel) -> None:
    recommendations = recommend(shop, iter([Request("u"), Request("v")]), k=2)
    assert repr(recommendations) == "<Recommendations, made as they are read>"
    assert [next(recommendations).user, *(answer.user for answer in recommendations)] == ["u", "v"]
    assert list(recommendations) == []
    with pytest.raises(TypeError, match="pass a list of them"):
        len(recommendations)


def test_a_bad_request_among_others_is_shown_and_raised_again(shop: LoadedModel) -> None:
    recommendations = recommend(shop, [Request("u"), Request("v", text="red")], k=2)
    for _ in range(2):
        with pytest.raises(DataError):
            recommendations[1]
    assert repr(recommendations).splitlines()[0] == "<2 recommendations>"


def test_answers_after_an_interrupt_are_not_fewer(
    shop: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sidtool.recommendation.recommendations.WINDOW", 1)
    recommendations = recommend(shop, [Request("u"), Request("v")], k=2, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        recommendations.to_pandas()
    for _ in range(2):
        with pytest.raises(SidtoolError, match="only 1 of 2 requests were answered") as caught:
            recommendations.to_pandas()
    assert caught.value.hint == "after an interrupt, call recommend again"
    assert recommendations[0].user == "u"


def test_a_table_needs_pandas(shop: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="pandas is not installed: pip install pandas"):
        recommend(shop, [Request("u")]).to_pandas()
