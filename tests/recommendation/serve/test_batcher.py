import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sidtool.base.errors import DataError
from sidtool.model import LoadedModel
from sidtool.recommendation import Recommendation, RecommendOptions, Request, recommend
from sidtool.recommendation.search import beam
from sidtool.recommendation.serve.batcher import Answered, Batcher, Busy, Served, Waiting
from sidtool.recommendation.serve.bodies import Choices
from sidtool.recommendation.serve.metrics import Metrics
from sidtool.recommendation.serve.serve_options import ServeLimits, Version
from sidtool.tokenizer.bundle import Bundle, StringArray
from tests.recommendation.serve.conftest import OPTIONS
from tests.waiting import DEADLOCK, wait_until

DEFAULTS = Choices()


def served(loaded: LoadedModel, version: str = "v1") -> Served:
    return Served.of(loaded, Version(version), OPTIONS.recommend)


def waiting(number: int, choices: Choices = DEFAULTS, **request: Any) -> Waiting:
    return Waiting(Request(f"u{number}", (f"i{number}",), **request), choices)


MakeBatcher = Callable[..., Batcher]


@pytest.fixture
def make_batcher(shop: LoadedModel) -> Iterator[MakeBatcher]:
    """A function that makes a batcher; `batches` gets the users of each of its batches."""
    made: list[Batcher] = []

    def make(batches: Any = None, **limits: Any) -> Batcher:
        batcher = Batcher(served(shop), ServeLimits(**limits), Metrics())
        answer = batcher._answer

        def answer_and_tell(value: Served, batch: Any) -> bool:
            has_failed = answer(value, batch)
            batches.put([one.request.user for one, _ in batch])
            return has_failed

        if batches is not None:
            batcher._answer = answer_and_tell
        made.append(batcher)
        return batcher

    yield make
    for batcher in made:
        batcher.stop()


def test_requests_with_equal_options_share_batches_in_their_order(
    make_batcher: MakeBatcher, shop: LoadedModel
) -> None:
    batches: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    tree = 8 * 2
    prompt = len(served(shop).recommender(Choices()).prepare(Request("u1", ("i1",))).query.prompt)
    batcher = make_batcher(batches, batch_tokens=3 * (prompt + 1 + tree))
    few = Choices((("k", 2),))
    requests = [waiting(n, few if n in (2, 5) else Choices()) for n in range(1, 8)]
    batcher.submit(requests)
    assert [batches.get(timeout=DEADLOCK) for _ in range(3)] == [
        ["u1", "u3", "u4"],
        ["u2", "u5"],  # the oldest that waited, and what can share its batch
        ["u6", "u7"],
    ]
    for number in (2, 5):
        answer = requests[number - 1].future.result().answer
        assert len(answer.items) == 2


def test_a_long_prompt_is_padded_into_the_budget(
    make_batcher: MakeBatcher, shop: LoadedModel
) -> None:
    batches: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    recommender = served(shop).recommender(Choices())
    short, long = Request("short", ("i1",)), Request("long", ("i1", "i2", "i3", "i4", "i5"))
    lengths = [len(recommender.prepare(request).query.prompt) for request in (short, long)]
    assert lengths[1] > lengths[0]
    # three short ones fit, or two of which one is long
    batcher = make_batcher(batches, batch_tokens=max(3 * (lengths[0] + 16), 2 * (lengths[1] + 16)))
    requests = [short, long, short, short, short, short]
    batcher.submit([Waiting(request, Choices()) for request in requests])
    assert batches.get(timeout=DEADLOCK) == ["short", "long"]
    assert batches.get(timeout=DEADLOCK) == ["short"] * 3
    assert batches.get(timeout=DEADLOCK) == ["short"]


def test_an_idle_model_waits_for_a_batch_and_no_longer(make_batcher: MakeBatcher) -> None:
    batches: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    batcher = make_batcher(batches, batch_seconds=DEADLOCK, seconds=DEADLOCK)
    batcher.submit([waiting(1)])
    batcher.submit([waiting(2)])
    with pytest.raises(queue.Empty):
        batches.get(timeout=0.2)
    batcher.stop()  # waits for nothing
    assert batches.get(timeout=DEADLOCK) == ["u1", "u2"]


def test_what_cannot_wait_is_refused_as_a_whole(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher(max_waiting=3, batch_seconds=DEADLOCK, seconds=DEADLOCK)
    batcher.submit([waiting(1), waiting(2)])
    with pytest.raises(Busy, match="try again in 1 s"):
        batcher.submit([waiting(3), waiting(4)])
    batcher.submit([waiting(5)])
    batcher._seconds_per_request = 2.5
    with pytest.raises(Busy, match="try again in 8 s"):
        batcher.submit([waiting(6)])


def test_a_request_that_nobody_waits_for_is_left_out(make_batcher: MakeBatcher) -> None:
    batches: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    batcher = make_batcher(batches)
    left = waiting(1)
    left.future.cancel()
    batcher.submit([left, waiting(2)])
    assert batches.get(timeout=DEADLOCK) == ["u2"]


def test_an_error_of_a_batch_is_that_of_the_request_which_caused_it(
    make_batcher: MakeBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = beam.beam_search

    def poisoned(model: Any, prompts: Any, *arguments: Any, **options: Any) -> Any:
        for leaf_filter in options["filters"]:
            if leaf_filter is not None:
                raise DataError("a logit is NaN") if len(prompts) < 9 else RuntimeError("boom")
        return search(model, prompts, *arguments, **options)

    monkeypatch.setattr(beam, "beam_search", poisoned)
    batcher = make_batcher()
    requests = [waiting(n, deny=("i0",) if n == 3 else ()) for n in range(9)]
    batcher.submit(requests)
    answers = [request.future.result(timeout=DEADLOCK).answer for request in requests]
    assert "a logit is NaN" in str(answers[3].error)
    others = [answer for n, answer in enumerate(answers) if n != 3]
    assert all(isinstance(answer, Recommendation) for answer in others)


def test_wrong_options_are_the_answer_to_each_request(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher()
    wrong = Choices(candidates=("nobody",))
    requests = [waiting(1, wrong), waiting(2), waiting(3, wrong)]
    batcher.submit(requests)
    first, good, last = (request.future.result(timeout=DEADLOCK).answer for request in requests)
    for bad in (first, last):
        assert "'nobody' is not in the bundle" in str(bad.error)
    assert isinstance(good, Recommendation)


def test_an_exchange_is_seen_by_whole_requests_only(
    make_batcher: MakeBatcher, shop: LoadedModel
) -> None:
    """Every answer is that of the value which it names, while values are exchanged all the time."""
    batcher = make_batcher(batch_seconds=0.0)
    # the second value has the same items under other names
    ids = StringArray.of([f"i{59 - int(item[1:])}" for item in shop.bundle.items.ids])
    items = replace(shop.bundle.items, ids=ids, stored_index=None)
    other = replace(shop, bundle=Bundle.of(items, shop.bundle.codebook, "reassign", name="other"))
    values = {name: served(loaded, name) for name, loaded in (("v1", shop), ("other", other))}
    expected = {
        name: [
            next(recommend(value.loaded, [waiting(n).request], OPTIONS.recommend)).items
            for n in range(12)
        ]
        for name, value in values.items()
    }
    assert expected["v1"] != expected["other"]
    stopping = threading.Event()

    def exchange() -> None:
        while not stopping.is_set():
            for value in values.values():
                batcher.exchange(value)

    seen = set()

    def both_are_seen() -> bool:
        requests = [waiting(n) for n in range(12)]
        for request in requests:
            batcher.submit([request])
        for n, request in enumerate(requests):
            answered: Answered = request.future.result(timeout=DEADLOCK)
            name = answered.served.version.model
            seen.add(name)
            assert answered.answer.items == expected[name][n]
        return len(seen) == 2

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        wait_until(both_are_seen)
    finally:
        stopping.set()
        thread.join()


def test_a_value_that_cannot_answer_is_not_taken(
    make_batcher: MakeBatcher, shop: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = make_batcher()
    old, new = batcher.served, served(shop, "new")
    with monkeypatch.context() as patched:
        patched.setattr(Served, "warm_up", lambda _: (_ for _ in ()).throw(DataError("broken")))
        with pytest.raises(DataError, match="broken"):
            batcher.exchange(new)
    assert batcher.served is old
    batcher.exchange(new)
    assert batcher.served is new


def test_stopping_answers_what_waits(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher()
    requests = [waiting(n) for n in range(30)]
    batcher.submit(requests)
    batcher.stop()
    assert all(isinstance(request.future.result(0).answer, Recommendation) for request in requests)
    assert not batcher.is_alive


def test_a_batch_that_got_no_answers_is_known_until_the_next(
    make_batcher: MakeBatcher, shop: LoadedModel
) -> None:
    batches = SimpleNamespace(put=None)
    batcher = make_batcher(batches)
    batcher.submit([waiting(1)])
    wait_until(lambda: not batcher.is_alive)
    batches.put = print
    batcher.submit([waiting(2)])
    wait_until(lambda: batcher.is_alive)
    batches.put = None
    batcher.submit([waiting(3)])
    wait_until(lambda: not batcher.is_alive)
    batcher.exchange(served(shop, "new"))
    assert batcher.is_alive


@pytest.mark.parametrize("is_lost", [False, True])
def test_an_error_nobody_foresaw_is_known_if_it_is_that_of_every_request(
    make_batcher: MakeBatcher, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    search = beam.beam_search

    def failing(model: Any, prompts: Any, *arguments: Any, **options: Any) -> Any:
        if is_lost or options["filters"][0] is not None:
            raise RuntimeError("an illegal memory access was encountered")
        return search(model, prompts, *arguments, **options)

    monkeypatch.setattr(beam, "beam_search", failing)
    batcher = make_batcher()
    requests = [waiting(k, Choices((("k", k),)), deny=("i0",)) for k in (1, 2)]
    batcher.submit(requests)  # with other options, and so in two batches
    assert [request.future.result(DEADLOCK).answer for request in requests] == [None, None]
    wait_until(lambda: not batcher._is_queued)
    assert batcher.is_alive is not is_lost


def test_what_waits_is_answered_after_a_batch_that_failed(make_batcher: MakeBatcher) -> None:
    batcher = make_batcher(SimpleNamespace(put=lambda users: users == ["u2"] or 1 // 0))
    last = waiting(2, Choices((("k", 2),)))  # in a batch of its own
    batcher.submit([waiting(1), last])
    assert last.future.result(DEADLOCK).answer is not None


def test_an_exchange_waits_for_one_batch_however_many_requests_wait(
    make_batcher: MakeBatcher, shop: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = make_batcher(batch_tokens=1)  # each request is a batch
    new = served(shop, "new")
    is_running, is_queued = threading.Event(), threading.Event()
    answer, run = batcher._answer, batcher._thread.submit

    def answer_when_queued(value: Served, batch: Any) -> bool:
        is_running.set()
        assert is_queued.wait(DEADLOCK)
        return answer(value, batch)

    def tell(function: Callable[[], None]) -> Any:
        future = run(function)
        if is_running.is_set():
            is_queued.set()
        return future

    monkeypatch.setattr(batcher, "_answer", answer_when_queued)
    requests = [waiting(n) for n in range(5)]
    batcher.submit(requests)
    assert is_running.wait(DEADLOCK)
    monkeypatch.setattr(batcher._thread, "submit", tell)
    batcher.exchange(new)
    versions = [one.future.result(DEADLOCK).served.version.model for one in requests]
    assert versions == ["v1"] + 4 * ["new"]


def test_a_model_that_is_replaced_is_freed_at_once(shop: LoadedModel) -> None:
    gc.disable()  # nothing waits for a collection of cycles
    try:
        value = served(shop)
        value.recommender(DEFAULTS)
        reference = weakref.ref(value)
        del value
        assert reference() is None
    finally:
        gc.enable()


def test_candidates_are_scored_where_a_service_recommends_lists() -> None:
    defaults = RecommendOptions(k=10, list=True)
    assert Choices().options(defaults).list is not None
    scored = Choices(candidates=("i1", "i2")).options(defaults)
    assert (scored.k, scored.list) == (2, False)
