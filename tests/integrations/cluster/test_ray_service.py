"""`serve --engine ray`: how it starts, waits and ends, with a stand-in for Ray Serve, and two
replicas of a real cluster."""

import json
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from sidtool.base.errors import DataError, MissingPackageError, SidtoolError, UsageError
from sidtool.integrations.cluster import ray_service, serve_on_ray
from sidtool.model import load_model_folder
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.recommendation.serve import Listening, ServeLimits, ServeOptions
from tests.cli.road import refused
from tests.recommendation.serve.disk import Running, running, save_model
from tests.recommendation.serve.test_process import call_across_sigterm
from tests.waiting import DEADLOCK, wait_until

BODY = {"user": "u1", "history": ["b001", "b002"], "k": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("served"))


@dataclass
class FakeServe:
    """Stands in for the module `ray.serve`: one application, deployed by `run`."""

    names: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    started: dict[str, Any] = field(default_factory=dict)
    deployed: dict[str, Any] = field(default_factory=dict)
    on_start: Callable[[], object] = lambda: None
    on_run: Callable[[], object] = lambda: None

    def status(self) -> Any:
        return SimpleNamespace(applications=dict.fromkeys(self.names), proxies={})

    def start(self, **options: Any) -> None:
        self.started = options
        self.on_start()

    def ingress(self, build: Callable[[], Any]) -> Callable[[type], type]:
        return lambda replica: replica

    def deployment(self, replica: type, **options: Any) -> Any:
        self.deployed = options
        return SimpleNamespace(bind=lambda: replica)

    def run(self, application: Any, *, name: str, route_prefix: str) -> None:
        self.on_run()
        self.names.append(name)

    def delete(self, name: str) -> None:
        self.calls.append(f"delete {name}")
        if name in self.names:
            self.names.remove(name)

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServe:
    """A cluster of four CPUs and two GPUs on which Ray Serve is this object."""
    ray = pytest.importorskip("ray")
    serve = FakeServe()
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 4, "GPU": 2})
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    monkeypatch.setattr(ray, "serve", serve, raising=False)
    monkeypatch.setattr(ray_service, "ray_cluster", lambda workers: nullcontext(cluster))
    monkeypatch.setattr(ray_service, "SIGNAL_SECONDS", 0.01)
    monkeypatch.setattr(ray_service, "POLL_SECONDS", 0.02)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return serve


def terminate(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("moment", ["while Ray starts", "while replicas start", "when they answer"])
def test_sigterm_ends_the_deployment(fake: FakeServe, model: Path, moment: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    urls: list[str] = []
    if moment == "while Ray starts":
        fake.on_start = terminate
    if moment == "while replicas start":
        fake.on_run = terminate
    options = ServeOptions(str(model), limits=ServeLimits(seconds=4, max_waiting=7))
    listening = Listening(port=0, workers=3)
    serve_on_ray(options, listening, started=lambda url: (urls.append(url), terminate()))
    assert len(urls) == (moment == "when they answer")
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
    assert fake.calls == ["delete sidtool", "shutdown"]
    assert signal.getsignal(signal.SIGTERM) is before
    # the proxies wait longer than a replica for body and answer; a call is refused by the replica
    assert fake.started["http_options"]["request_timeout_s"] > 2 * 4
    if moment == "while Ray starts":
        return
    assert fake.deployed["graceful_shutdown_timeout_s"] > 4
    assert fake.deployed["max_ongoing_requests"] > 7
    assert fake.deployed["num_replicas"] == 3
    # two on one GPU: two thirds of a GPU would leave a third of each, too little for one
    assert fake.deployed["ray_actor_options"]["num_gpus"] == 0.5


def test_ctrl_c_ends_the_deployment(fake: FakeServe, model: Path) -> None:
    interrupt = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        serve_on_ray(ServeOptions(str(model)), Listening(port=0), started=interrupt)
    assert fake.calls == ["delete sidtool", "shutdown"]


DEPLOYMENT = RuntimeError(
    "Deploying application sidtool failed: The deployment failed to start 3 times\n"
    'Traceback (most recent call last):\n  File "x.py", line 1, in open\n'
    "sidtool.base.errors.RefusedError: the model lacks a token\n"
)


@pytest.mark.parametrize(
    ("moment", "failure", "message"),
    [
        ("on_run", DEPLOYMENT, "^no replica can start: the model lacks a token$"),
        (
            "on_start",
            TimeoutError("HTTP proxies not available after 60s.\nmore"),
            "^Ray Serve does not start: HTTP proxies not available after 60s",
        ),
    ],
)
def test_replicas_and_proxies_that_cannot_start_are_one_line(
    fake: FakeServe, model: Path, moment: str, failure: Exception, message: str
) -> None:
    setattr(fake, moment, Mock(side_effect=failure))
    with pytest.raises(SidtoolError, match=message):
        serve_on_ray(ServeOptions(str(model)), Listening(port=0))
    assert fake.calls == ["delete sidtool", "shutdown"]


def test_an_application_that_is_deleted_ends_the_command(fake: FakeServe, model: Path) -> None:
    with pytest.raises(SidtoolError, match="was deleted from the Ray cluster"):
        serve_on_ray(
            ServeOptions(str(model)), Listening(port=0), started=lambda _: fake.names.clear()
        )


def test_other_applications_are_left_alone(fake: FakeServe, model: Path) -> None:
    fake.names.append("other")
    with pytest.raises(DataError, match="runs on the cluster already, with its own address and ot"):
        serve_on_ray(ServeOptions(str(model)), Listening(port=0))
    assert fake.calls == []
    fake.names.clear()

    def deploy_another(_: str) -> None:
        fake.names.append("another")
        terminate()

    serve_on_ray(ServeOptions(str(model)), Listening(port=0), started=deploy_another)
    assert (fake.calls, fake.names) == (["delete sidtool"], ["another"])


def test_more_replicas_than_processors_are_a_line_in_the_log(
    fake: FakeServe, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ServeOptions(str(model))
    serve_on_ray(options, Listening(port=0, workers=5), started=terminate)
    assert "5 replicas wait for a CPU each: the cluster has 4" in capsys.readouterr().err


def test_a_cluster_needs_a_port(
    fake: FakeServe, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UsageError, match="a cluster needs a port"):
        serve_on_ray(ServeOptions(str(model)), Listening(port=0))


def test_a_taken_port_and_no_model_are_refused_before_a_cluster_starts(
    fake: FakeServe, model: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DataError, match=f"port {port} cannot be used"):
            serve_on_ray(ServeOptions(str(model)), Listening(port=port))
    assert "there is no model at" in refused(1, "serve", tmp_path, "--engine", "ray")
    assert fake.started == {}


@pytest.mark.parametrize(("module", "named"), [("ray", "ray"), ("ray.serve", "ray[serve]")])
def test_without_ray_serve_one_line_names_the_extra(
    module: str, named: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError) as raised:
        serve_on_ray(ServeOptions(str(model)))
    assert str(raised.value) == f"{named} is not installed: pip install 'sidtool[ray]'"


@pytest.fixture(scope="module")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two replicas of a cluster on this machine."""
    pytest.importorskip("ray.serve", reason="needs the extra ray", exc_type=ImportError)
    log = tmp_path_factory.mktemp("ray") / "log"
    words = ("--engine", "ray", "--workers", "2", "-k", "3")
    with running(log, model, *words) as service:
        yield service


@pytest.mark.slow
def test_answers_are_those_of_recommend(service: Running, model: Path) -> None:
    histories = [("b001",), ("b002", "b003"), ("b004", "b001", "b009")]
    requests = [Request(history=history) for history in histories]
    expected = [*recommend(load_model_folder(model), requests, RecommendOptions(k=3))]
    for history, answer in zip(histories, expected, strict=True):
        got = service.post("/v1/recommend", {"history": history})
        assert got["items"] == list(answer.items)
        assert got["scores"] == pytest.approx(list(answer.scores), abs=1e-4)
    many = service.post("/v1/recommend", {"requests": [{"history": ids} for ids in histories]})
    assert [answer["items"] for answer in many["answers"]] == [
        list(answer.items) for answer in expected
    ]
    assert service.get("/readyz")["items"] == 40


@pytest.mark.slow
def test_wrong_calls_are_refused(service: Running) -> None:
    assert call(f"{service.url}/v1/recommend", b"a" * (1 << 20) + b"a")[0] == 413
    assert call(f"{service.url}/nothing", b"{}")[0] == 404
    assert call(f"{service.url}/v1/recommend", None)[0] == 405


@pytest.mark.slow
def test_a_killed_replica_loses_no_answer_of_a_client_that_repeats(service: Running) -> None:
    expected = service.post("/v1/recommend", BODY)["items"]
    n_calls, n_clients = 20, 4
    answers: list[list[str]] = []
    statuses: Counter[int] = Counter()
    victim = replicas()[0]

    def work() -> None:
        for _ in range(n_calls):
            status = 0
            while status != 200:
                status, content = call(f"{service.url}/v1/recommend", json.dumps(BODY).encode())
                statuses[status] += 1
            answers.append(json.loads(content)["items"])

    clients = [threading.Thread(target=work) for _ in range(n_clients)]
    for client in clients:
        client.start()
    os.kill(victim, signal.SIGKILL)
    for client in clients:
        client.join()
    assert answers == [expected] * (n_calls * n_clients)
    # a call that the replica had is answered with 500 by Ray's proxy
    assert set(statuses) <= {200, 500}
    assert statuses[500] <= n_clients
    wait_until(lambda: len(now := replicas()) >= 2 and victim not in now)


@pytest.mark.slow
def test_metrics_count_the_calls_of_all_replicas(service: Running) -> None:
    def counted() -> float:
        name = 'sidtool_calls_total{path="/v1/decode",status="200"}'
        lines = [line for line in service.get("/metrics").splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    before = counted()
    for _ in range(12):
        service.post("/v1/decode", {"texts": ["<s_a_1>"]})
    assert counted() == before + 12


@pytest.mark.slow
def test_sigterm_answers_what_was_received_and_ends_the_cluster(service: Running) -> None:
    assert len(call_across_sigterm(service, BODY)["items"]) == 3
    assert service.process.wait(DEADLOCK) == 0
    assert replicas() == []


def call(url: str, body: bytes | None) -> tuple[int, bytes]:
    """Status and content of the answer to a call; 0 if the connection broke."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=DEADLOCK) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, ConnectionError):
        return 0, b""


def replicas() -> list[int]:
    """The processes of replicas on this machine."""
    process_ids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::ServeReplica"):
            process_ids.append(int(process.name))
    return process_ids
