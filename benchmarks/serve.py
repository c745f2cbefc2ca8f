"""Compare `sidtool serve` with `recommend` on the same requests, and count lost answers.

    python benchmarks/serve.py saturation queue latency soak [--requests 2000] [-o FILE.json]

* saturation: requests per second and CPU seconds per request of the server, with many clients that
  send one request per call, against `recommend` on all requests at once. Both answer the same
  requests in turns, so that a busy machine disturbs both alike.
* queue: what a queue before one model gives at half of the saturated rate on a machine without
  other work, simulated from the CPU seconds of batches.
* latency: the 99th percentile of the time of a call while calls arrive at random at half of the
  saturated rate, against single calls to the idle server. The rate is measured anew in each turn,
  since that of a busy machine changes.
* soak: two workers answer while the tag of their bundle moves to and fro and a worker is killed now
  and then. Every answer is compared with what `recommend` gives with the bundle that it names.

Models are random, so scores mean nothing; the time depends on shapes only. One thread per process
(OMP_NUM_THREADS=1); the client takes a core of its own. Traffic is on 127.0.0.1."""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from environment import command_line, environment
from serve_client import Reply, Server, open_loop, saturate, serving
from serve_model import Shop, make_shop
from serve_queue import batch_costs, simulate
from table import markdown

from sidtool.model.load import load_model_folder
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import recommend
from sidtool.recommendation.recommender import Prepared, Recommender
from sidtool.recommendation.requests import Request
from sidtool.registry.publish import tag
from sidtool.registry.references import open_bundle

PARTS = ("saturation", "queue", "latency", "soak")
OPTIONS = RecommendOptions(k=10, num_beams=50)
ROUNDS = 4
"""Turns of each side."""
CLIENTS = 128
"""Calls in flight at saturation."""
TOLERANCE = 1e-4
"""Least difference of two scores that are not equal within rounding."""


def saturation(shop: Shop, server: Server, n_requests: int) -> dict[str, Any]:
    """Requests per second of both sides, in turns over ROUNDS parts of the requests."""
    loaded = load_model_folder(shop.model)
    bodies = shop.bodies(n_requests)
    requests = [Request.from_json(body) for body in bodies]
    list(recommend(loaded, requests[:64], OPTIONS))
    asyncio.run(saturate(server.url, bodies[:64], CLIENTS))
    sums: defaultdict[str, float] = defaultdict(float)
    ratios = []
    for part in range(ROUNDS):
        chunk = slice(part * n_requests // ROUNDS, (part + 1) * n_requests // ROUNDS)
        start, cpu = time.perf_counter(), time.process_time()
        offline = list(recommend(loaded, requests[chunk], OPTIONS))
        offline_wall, offline_cpu = time.perf_counter() - start, time.process_time() - cpu
        start, cpu = time.perf_counter(), server.cpu_seconds()
        replies = asyncio.run(saturate(server.url, bodies[chunk], CLIENTS))
        served_wall, served_cpu = time.perf_counter() - start, server.cpu_seconds() - cpu
        assert len(replies) == len(offline)
        for reply, answer in zip(replies, offline, strict=True):
            assert reply.status == 200, reply
            check_equal(reply, answer.to_json())
        sums["offline"] += offline_wall
        sums["served"] += served_wall
        sums["offline_cpu"] += offline_cpu
        sums["served_cpu"] += served_cpu
        ratios.append(offline_wall / served_wall)
    return {
        "requests": n_requests,
        "offline_per_second": n_requests / sums["offline"],
        "served_per_second": n_requests / sums["served"],
        "throughput_ratio": sums["offline"] / sums["served"],
        "throughput_ratio_by_turn": ratios,
        "cpu_ratio": sums["offline_cpu"] / sums["served_cpu"],
        "offline_cpu_ms": 1000 * sums["offline_cpu"] / n_requests,
        "served_cpu_ms": 1000 * sums["served_cpu"] / n_requests,
    }


def queue(shop: Shop, batch_tokens: int, batch_wait: float) -> dict[str, Any]:
    """The time of calls at half of the saturated rate over that of a single call, simulated."""
    loaded = load_model_folder(shop.model)
    recommender = Recommender.of(loaded, OPTIONS, None)
    read = (Request.from_json(body) for body in shop.bodies(CLIENTS))
    prepared = [recommender.prepare(request) for request in read]
    longest = max(
        len(request.query.prompt) for request in prepared if isinstance(request, Prepared)
    )
    tokens = longest + OPTIONS.num_beams * (loaded.bundle.space.levels - 1)
    largest = min(max(batch_tokens // tokens, 1), CLIENTS)
    costs = batch_costs(lambda n: list(recommender.answer_prepared(prepared[:n])))
    rate = costs.saturated_rate(largest) / 2
    seconds = simulate(costs, rate, wait=batch_wait / 1000, largest=largest)
    single = costs.of(1) + batch_wait / 1000
    return {
        "cpu_ms_per_request": {n: round(1000 * costs.of(n) / n, 1) for n in costs.sizes},
        "largest_batch": largest,
        "rate": rate,
        "p50_over_single": float(np.percentile(seconds, 50)) / single,
        "p99_over_single": float(np.percentile(seconds, 99)) / single,
    }


def latency(shop: Shop, server: Server, n_requests: int) -> dict[str, Any]:
    """Milliseconds of single calls to an idle server, and of calls at half of the saturated
    requests per second, in turns."""
    bodies = shop.bodies(n_requests)
    asyncio.run(saturate(server.url, bodies[:32], 1))
    alone: list[float] = []
    loaded: list[float] = []
    rates: list[float] = []
    n_alone = max(len(bodies) // 8, 20)
    n_saturated = max(len(bodies) // 8, CLIENTS)
    for part in range(ROUNDS):
        chunk = slice(part * n_alone // ROUNDS, (part + 1) * n_alone // ROUNDS)
        alone += [reply.seconds for reply in asyncio.run(saturate(server.url, bodies[chunk], 1))]
        start = time.perf_counter()
        asyncio.run(saturate(server.url, shop.bodies(n_saturated), CLIENTS))
        rates.append(n_saturated / (time.perf_counter() - start))
        chunk = slice(part * len(bodies) // ROUNDS, (part + 1) * len(bodies) // ROUNDS)
        replies = asyncio.run(open_loop(server.url, bodies[chunk], rates[-1] / 2, seed=part))
        assert all(reply.status == 200 for reply in replies)
        loaded += [reply.seconds for reply in replies]
    p50, p99 = (1000 * float(np.percentile(alone, percent)) for percent in (50, 99))
    half_p50, half_p99 = (1000 * float(np.percentile(loaded, percent)) for percent in (50, 99))
    return {
        "rates": [rate / 2 for rate in rates],
        "alone_p50_ms": p50,
        "alone_p99_ms": p99,
        "half_load_p50_ms": half_p50,
        "half_load_p99_ms": half_p99,
        "p99_over_single": half_p99 / p50,
        "p99_over_p99": half_p99 / p99,
    }


def soak(
    shop: Shop, folder: Path, n_requests: int, swap_seconds: float, kill_seconds: float
) -> dict[str, Any]:
    """Answers of two workers while a tag moves and workers are killed, each one checked."""
    bodies = [{**body, "user": f"user {n}"} for n, body in enumerate(shop.bodies(n_requests))]
    distinct = [Request.from_json(body) for body in bodies[: shop.n_histories]]
    expected = {}
    for version in ("1.0", "1.1"):
        bundle = open_bundle(f"{shop.registry}@{version}")
        loaded = load_model_folder(shop.model, bundle=bundle)
        answers = [answer.to_json() for answer in recommend(loaded, distinct, OPTIONS)]
        expected[bundle.digest[:12]] = answers
    tag(f"{shop.registry}@1.0", "prod")
    words = (shop.model, "--bundle", f"{shop.registry}@prod", "--workers", 2, "--poll", 1)
    with serving(folder, *words) as server:
        asyncio.run(saturate(server.url, bodies[:64], 8, retry=True))
        counts: Counter[str] = Counter()
        memory: list[int] = []
        replies = asyncio.run(
            _soak(shop, server, bodies, swap_seconds, kill_seconds, counts, memory)
        )
        ended = server.stop()
    seen: Counter[str] = Counter()
    wrong = 0
    for number, reply in enumerate(replies):
        # a second answer to a call would be taken for that to the next one, of another user
        answer = expected[reply.bundle][number % shop.n_histories] if reply.bundle else {}
        try:
            assert reply.status == 200
            check_equal(reply, {**answer, "user": f"user {number}"})
        except AssertionError:
            wrong += 1
        seen[reply.bundle] += 1
    third = max(1, len(memory) // 3)
    return {
        "requests": len(bodies),
        "lost": len(bodies) - len(replies),
        "wrong_or_doubled": wrong,
        "sent_again_after_a_kill": sum(reply.attempts - 1 for reply in replies),
        "answers_by_bundle": dict(seen),
        **counts,
        "exit_code": ended,
        "rss_mib_first_third": median(memory[:third]) / 2**20,
        "rss_mib_last_third": median(memory[-third:]) / 2**20,
    }


async def _soak(
    shop: Shop,
    server: Server,
    bodies: list[dict[str, Any]],
    swap_seconds: float,
    kill_seconds: float,
    counts: Counter[str],
    memory: list[int],
) -> list[Reply]:
    async def move_tag() -> None:
        while True:
            await asyncio.sleep(swap_seconds)
            counts["tag_moves"] += 1
            version = f"1.{counts['tag_moves'] % 2}"
            await asyncio.to_thread(tag, f"{shop.registry}@{version}", "prod")

    async def kill_worker() -> None:
        draw = random.Random(0)
        while True:
            await asyncio.sleep(kill_seconds)
            workers = server.workers()
            if len(workers) == 2:
                os.kill(draw.choice(workers), signal.SIGKILL)
                counts["workers_killed"] += 1

    async def watch_memory() -> None:
        while True:
            await asyncio.sleep(0.5)
            # of the older worker: one that was just started is still growing
            memory.append(max(server.resident_bytes(), default=0))

    tasks = [asyncio.create_task(job()) for job in (move_tag, kill_worker, watch_memory)]
    try:
        return await saturate(server.url, bodies, 16, retry=True)
    finally:
        for task in tasks:
            task.cancel()


def check_equal(reply: Reply, expected: dict[str, Any]) -> None:
    """Raise AssertionError unless a reply is the answer of `recommend`: same user, and the same
    items wherever scores differ by more than rounding."""
    got = reply.body
    assert got["user"] == expected["user"], (got, expected)
    assert len(got["items"]) == len(expected["items"]), (got, expected)
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=TOLERANCE)
    scores = dict(zip(expected["items"], expected["scores"], strict=True))
    last = expected["scores"][-1]
    for item, score in zip(got["items"], got["scores"], strict=True):
        assert abs(score - scores.get(item, last)) < TOLERANCE, (item, got, expected)


def main() -> None:
    """Run the parts that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch-wait", type=float, default=2.0, help="milliseconds")
    parser.add_argument("--batch-tokens", type=int, default=1 << 12)
    parser.add_argument("--soak-requests", type=int, default=20_000)
    parser.add_argument("--swap-seconds", type=float, default=60.0)
    parser.add_argument("--kill-seconds", type=float, default=45.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--out", type=Path, help="write the results to this file")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options = {name: value for name, value in vars(args).items() if name != "out"}
    result: dict[str, Any] = {
        "command": command_line("serve.py", sys.argv[1:]),
        "environment": environment(),
        "options": options,
    }
    with tempfile.TemporaryDirectory(prefix="serve-") as name:
        folder = Path(name)
        shop = make_shop(folder, args.items, args.dim, args.layers)
        result["parameters"] = shop.n_parameters
        if {"saturation", "latency"} & set(args.parts):
            limits = ("--batch-wait", args.batch_wait, "--batch-tokens", args.batch_tokens)
            with serving(folder, shop.model, *limits) as server:
                if "saturation" in args.parts:
                    result["saturation"] = saturation(shop, server, args.requests)
                if "latency" in args.parts:
                    result["latency"] = latency(shop, server, args.requests)
        if "queue" in args.parts:
            result["queue"] = queue(shop, args.batch_tokens, args.batch_wait)
        if "soak" in args.parts:
            times = (args.swap_seconds, args.kill_seconds)
            result["soak"] = soak(shop, folder, args.soak_requests, *times)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(result))
        return
    for part in PARTS:
        if part in result:
            rows = [(key, value) for key, value in result[part].items()]
            print(markdown([part, ""], rows), end="\n\n")


if __name__ == "__main__":
    main()
