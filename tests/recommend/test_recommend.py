"""Requests to items: order, filters, shared SIDs, unknown ids, bounded reading ahead."""

import dataclasses
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.errors import DataError, SidtoolWarning, UsageError
from sidtool.prompt.prompts import HistoryPrompt, TextPrompt
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend import recommend as module
from sidtool.recommend.recommend import (
    Request,
    finished_lines,
    read_requests,
    recommend,
    score_items,
)
from tests.bundles import small_bundle
from tests.models import tiny_model, tiny_tokenizer

torch.set_num_threads(1)


def served(*, duplicates: bool = False, retired: tuple[int, ...] = ()) -> Any:
    """What `load_model_folder` returns, made in memory: a random model, asked with a history of SIDs."""
    bundle = small_bundle(60, duplicates=duplicates)
    bundle.items.retired[list(retired)] = True
    tokenizer = tiny_tokenizer()
    tokens = SidTokens(bundle.space, len(tokenizer))
    history_prompt = HistoryPrompt("next-item", "The history: {history}\nNext:", 5, 100)
    model = tiny_model("qwen2", vocab_size=tokens.stop)
    return SimpleNamespace(
        model=model,
        tokenizer=tokenizer,
        tokens=tokens,
        bundle=bundle,
        contract=SimpleNamespace(history_prompt=history_prompt, normalize="level"),
    )


@pytest.fixture(scope="module")
def shop() -> Any:
    return served()


def items_of(shop: Any, n: int = 60) -> list[str]:
    return [str(shop.bundle.items.ids[row]) for row in range(n)]


def test_answers_come_in_order_with_their_facts(shop: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "WINDOW", 4)
    ids = items_of(shop)
    requests = [Request(f"u{n}", tuple(ids[n : n + n % 7])) for n in range(11)]
    told: list[tuple[int, int]] = []
    answers = list(recommend(shop, requests, k=5, width=8, progress=lambda *at: told.append(at)))
    assert [answer.user for answer in answers] == [f"u{n}" for n in range(11)]
    assert told == [(4, 11), (8, 11), (11, 11)]
    items = shop.bundle.items
    for request, answer in zip(requests, answers, strict=True):
        assert len(set(answer.items)) == 5
        assert list(answer.scores) == sorted(answer.scores, reverse=True)
        for item, sid, title in zip(answer.items, answer.sids, answer.titles, strict=True):
            row = items.row(item)
            assert shop.bundle.space.parse(sid) == tuple(items.codes[row].tolist())
            assert title == items.title(row)
        (alone,) = recommend(shop, [request], k=5, width=8)
        assert alone.items == answer.items
    assert json.loads(json.dumps(answers[0].to_json()))["items"] == list(answers[0].items)


def test_a_rendered_prompt_is_taken_as_it_is(shop: Any) -> None:
    from sidtool.prompt.assemble import history_prompt_ids

    history = tuple(items_of(shop, 3))
    ids = history_prompt_ids(
        shop.contract.history_prompt, shop.tokenizer, shop.tokens, shop.bundle.items.codes[:3]
    )
    (a,), (b,) = (
        recommend(shop, [Request(history=history)]),
        recommend(shop, [Request(prompt=tuple(ids))]),
    )
    assert a.items == b.items
    assert a.scores == b.scores


def test_a_text_is_asked_as_the_contract_says(shop: Any) -> None:
    from sidtool.prompt.assemble import text_prompt_ids

    text_prompt = TextPrompt("query-to-sid", "Wanted: {item}\nItem:", 100)
    contract = SimpleNamespace(text_prompt=text_prompt, history_prompt=None, normalize="level")
    asked = SimpleNamespace(**{**vars(shop), "contract": contract})
    ids = tuple(text_prompt_ids(text_prompt, shop.tokenizer, shop.tokens, "red <s_a_1> toy"))
    (a,), (b,) = (
        recommend(asked, [Request(text="red  <s_a_1>\ntoy")]),
        recommend(shop, [Request(prompt=ids)]),
    )
    assert (a.items, a.scores) == (b.items, b.scores)
    seen = a.items[0]
    (c,) = recommend(asked, [Request(text="red <s_a_1> toy", history=(seen,))], exclude_seen=True)
    assert c.items[:-1] == a.items[1:]
    assert list(read_requests(['{"text": "red", "user": 1}'])) == [Request("1", text="red")]
    with pytest.raises(UsageError, match="empty"):
        list(recommend(asked, [Request(text="  ")]))
    never = SimpleNamespace(
        **{**vars(shop), "contract": SimpleNamespace(text_prompt=None, normalize="level")}
    )
    with pytest.raises(DataError, match="never taught"):
        list(recommend(never, [Request(text="red")]))


def test_the_stream_is_read_a_window_at_a_time(shop: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "WINDOW", 3)
    read = []

    def requests() -> Iterator[Request]:
        for n in itertools.count():
            read.append(n)
            yield Request(str(n), ("i1",))

    answers = recommend(shop, requests(), k=2, width=4)
    assert [next(answers).user for _ in range(4)] == ["0", "1", "2", "3"]
    assert len(read) == 6


def test_filters_of_the_run_and_of_the_request(shop: Any) -> None:
    ids = items_of(shop)
    history = tuple(ids[:4])
    requests = [
        Request("deny", history, deny=tuple(ids[4:20])),
        Request("allow", history, allow=(*ids[:2], *ids[30:40], "nobody")),
        Request("none", history, allow=()),
    ]
    found = {a.user: a.items for a in recommend(shop, requests, k=60, width=2, exclude_seen=True)}
    assert sorted(found["deny"]) == sorted(ids[20:])
    assert sorted(found["allow"]) == sorted(ids[30:40])
    assert found["none"] == ()
    found = {
        a.user: a.items for a in recommend(shop, requests, k=60, allow=ids[:35], deny=ids[33:])
    }
    assert sorted(found["deny"]) == sorted(ids[:4] + ids[20:33])
    assert sorted(found["allow"]) == sorted(ids[:2] + ids[30:33])
    with pytest.raises(DataError, match="allow list"):
        next(recommend(shop, requests, allow=["nobody"]))
    with pytest.raises(DataError, match="deny list"):
        next(recommend(shop, requests, deny=["nobody"]))


@pytest.mark.parametrize("k", [1, 7, 60, 1000])
def test_items_that_share_a_sid_are_all_given(k: int) -> None:
    shop = served(duplicates=True)
    (answer,) = recommend(shop, [Request(history=("i1", "i2"))], k=k, width=3)
    assert len(answer.items) == len(set(answer.items)) == min(k, 60)
    rows = shop.bundle.items.rows(answer.items)
    for (sid, row), (next_sid, next_row) in itertools.pairwise(zip(answer.sids, rows, strict=True)):
        assert sid != next_sid or next_row == row + 1
    if k >= 60:
        (rest,) = recommend(shop, [Request(history=("i1", "i2"), deny=answer.items[:1])], k=k)
        assert set(rest.items) == set(answer.items[1:])


def test_retired_items_are_never_given_and_may_be_denied() -> None:
    shop = served(retired=(0, 1, 30, 59))
    ids = items_of(shop)
    (answer,) = recommend(shop, [Request(history=(ids[0], ids[3]), deny=(ids[30], ids[31]))], k=100)
    gone = {ids[row] for row in (0, 1, 30, 31, 59)}
    assert sorted(answer.items) == sorted(set(ids) - gone)


def test_unknown_ids_are_skipped_and_told(shop: Any) -> None:
    requests = [Request("a", ("x", "i1", "y")), Request("b", ("i1",))]
    with pytest.warns(SidtoolWarning, match="2 ids in the histories are not in the bundle"):
        a, b = recommend(shop, requests)
    assert (a.unknown, b.unknown) == (2, 0)
    assert a.items == b.items


def test_an_empty_history_is_asked_too(shop: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (answer,) = recommend(shop, [Request()], k=3)
    assert len(answer.items) == 3


def test_a_history_that_leaves_no_prompt_gets_nothing_and_the_others_their_items(shop: Any) -> None:
    history_prompt = HistoryPrompt("sequence", "{history}", 5, 100)
    bare = SimpleNamespace(
        **{
            **vars(shop),
            "contract": SimpleNamespace(history_prompt=history_prompt, normalize="level"),
            "tokens": SidTokens(
                dataclasses.replace(shop.tokens.space, begin=None, end=None), shop.tokens.start
            ),
        }
    )
    ids = items_of(shop)
    with pytest.warns(SidtoolWarning, match="1 ids"):
        nothing, some = recommend(
            bare, [Request(history=("no such item",)), Request(history=(ids[0],))], k=3
        )
    assert (nothing.items, nothing.unknown, len(some.items)) == ((), 1, 3)
    nothing, some = score_items(bare, [Request(), Request(history=(ids[0],))], ids[:5], k=3)
    assert (nothing.items, len(some.items)) == ((), 3)


def test_nonsense_is_refused(shop: Any) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        next(recommend(shop, [Request()], k=0))
    untaught = SimpleNamespace(
        **{**vars(shop), "contract": SimpleNamespace(history_prompt=None, normalize="level")}
    )
    with pytest.raises(DataError, match="how it is served"):
        next(recommend(untaught, [Request()]))


def test_requests_of_json_lines() -> None:
    lines = [
        '{"user": 7, "history": ["a", "b"], "item": "c"}\n',
        "\n",
        '{"history": [], "allow": [], "deny": ["x"]}',
    ]
    first, second = read_requests(lines)
    assert first == Request("7", ("a", "b"))
    assert second == Request(None, (), (), ("x",))
    for bad, message in [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"text": 3}', "is a text, not 3"),
        ('{"user": "u"}', "has the key 'history' or 'text'"),
        ('{"history": "a,b"}', "a list of item ids"),
        ('{"history": [1]}', "a list of item ids"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            list(read_requests(["\n", bad]))
        assert "line 2 of the requests" in str(caught.value)


def test_finished_lines_cut_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert finished_lines(path) == 0
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n{"c')
    assert finished_lines(path) == 2
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'


def test_importing_the_package_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, sidtool.recommend.recommend; assert 'torch' not in sys.modules and 'zarr' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scores_do_not_depend_on_the_filter(shop: Any) -> None:
    ids = items_of(shop)
    (plain,) = recommend(shop, [Request(history=tuple(ids[:3]))], k=60, width=60)
    (some,) = recommend(
        shop, [Request(history=tuple(ids[:3]), deny=tuple(ids[::2]))], k=60, width=60
    )
    scores = dict(zip(plain.items, plain.scores, strict=True))
    np.testing.assert_allclose(some.scores, [scores[item] for item in some.items], atol=1e-4)
