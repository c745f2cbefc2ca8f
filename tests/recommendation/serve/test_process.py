import asyncio
import io
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.cli.serve import example_call
from sidtool.model import LoadedModel, load_model_folder
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.recommendation.serve import Service, process
from sidtool.recommendation.serve.log import log_to_stderr
from sidtool.recommendation.serve.serve_options import Listening
from sidtool.recommendation.serve.start import serve, service_folder
from tests.cli.road import done, refused
from tests.cli.test_columns import COMMANDS
from tests.doc_blocks import ROOT, blocks, page
from tests.recommendation.serve.conftest import OPTIONS, open_service
from tests.recommendation.serve.disk import Running, running, save_model
from tests.waiting import DEADLOCK, wait_until

EXAMPLES = ROOT / "examples" / "serve"
URL = "http://127.0.0.1:8000"

BODY = {"user": "private user", "history": ["b001", "b002"], "k": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def expected(model: Path) -> list[str]:
    request = Request(history=tuple(BODY["history"]))  # type: ignore[arg-type]
    (answer,) = recommend(load_model_folder(model), [request], RecommendOptions(k=3))
    return list(answer.items)


@pytest.mark.slow
def test_a_service_answers_what_page_and_examples_call(
    model: Path, expected: list[str], tmp_path: Path
) -> None:
    token = {"SIDTOOL_TOKEN": "sesame"}
    with running(tmp_path / "log", model, "-v", "--timeout", DEADLOCK, env=token) as service:
        service.wait_until_ready()
        check_next_step(service, tmp_path)
        check_page(service, tmp_path)
        check_examples(service, tmp_path)
        answer = service.post("/v1/recommend", BODY, authorization="Bearer sesame")
    assert (answer["user"], answer["items"]) == ("private user", expected)
    log = (tmp_path / "log").read_text()
    assert "POST /v1/recommend 200" in log
    assert "Traceback" not in log
    for private in ("private user", "b001", "sesame"):
        assert private not in log


def check_next_step(service: Running, folder: Path) -> None:
    """The call that is shown at the start is answered, with the token of the variable."""
    (call,) = (line for line in service.log.read_text().splitlines() if line.startswith("next: "))
    answer = shell(call.removeprefix("next: "), folder, SIDTOOL_TOKEN="sesame")
    assert "items" in json.loads(answer)


@pytest.mark.parametrize("has_token", [False, True])
def test_the_call_that_is_shown_has_the_token_of_a_file(tmp_path: Path, has_token: bool) -> None:
    token = tmp_path / "a token"
    token.write_text("sesame\n")
    call = example_call(URL, token, has_token=has_token)
    words = shell(call.replace("curl", "printf '%s\\n'"), tmp_path).splitlines()
    assert words[:3] == [f"{URL}/v1/recommend", "--data", '{"history": ["ITEM"]}']
    assert words[3:] == ["-H", "Authorization: Bearer sesame"] * has_token


def test_the_url_of_a_service_is_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_: object, started: Callable[[str], None], **__: object) -> None:
        started(URL)

    monkeypatch.setattr("sidtool.recommendation.serve.serve", serve)
    ran = done("serve", "tuned", "--host", "0.0.0.0")
    assert (ran.out, ran.last) == (f"{URL}\n", f"next: {example_call(URL, None, has_token=False)}")
    assert "warning: 0.0.0.0 can be reached from other machines" in ran.err
    assert done("serve", "tuned", "--json").json == {"url": URL}


def check_page(service: Running, folder: Path) -> None:
    """The calls of docs/serving.md are answered."""
    (block,) = (text for text in blocks(page("serving.md"), "sh") if "curl" in text)
    header = " --silent --header 'authorization: Bearer sesame'"
    call = block.rstrip().replace(URL, service.url) + header
    assert len(json.loads(shell(call, folder))["items"]) == 3
    (program,) = blocks(page("serving.md"), "python")
    token = '{"authorization": "Bearer sesame"}'
    request = f"urllib.request.Request(url, json.dumps(body).encode(), {token})"
    program = program.replace("url, json.dumps(body).encode()", request)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(program.replace(URL, service.url), {})
    assert printed.getvalue() == "[3, 3]\n"


def check_examples(service: Running, folder: Path) -> None:
    """The clients of examples/serve are answered, and refused without the token."""
    token = {"TOKEN": "sesame"}
    lines = shell(f"{EXAMPLES / 'client.sh'} {service.url}", folder, **token).splitlines()
    ready, one, many, scored, decoded = map(json.loads, lines)
    assert ready["ready"] is True
    assert one["user"] == "u1"
    assert not {"b001", "b002"} & set(one["items"])
    assert [len(answer["items"]) for answer in many["answers"]] == [3, 3]
    assert set(scored["items"]) == {"b002", "b003"}
    assert decoded["decoded"][0][0]["status"] in ("item", "unknown")
    call = f"{sys.executable} {EXAMPLES / 'client.py'} {service.url} b001,b002"
    table = [line.split("\t") for line in shell(call, folder, **token).splitlines()]
    assert [len(row) for row in table] == [3] * 5
    with pytest.raises(AssertionError, match="401: the bearer token"):
        shell(call, folder)


def shell(text: str, folder: Path, **env: str) -> str:
    """What a shell prints, with the programs of a folder."""
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={"PATH": f"{folder}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=DEADLOCK,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_image_and_the_unit_run_the_command() -> None:
    unit = (EXAMPLES / "sidtool.service").read_text(encoding="utf-8")
    image = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["sidtool", "serve", "--host", "0.0.0.0"]' in image
    assert "[serve]" in image
    (command,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(command.partition("=")[2])[1:]
    flags = {flag for option in COMMANDS["serve"].params for flag in option.opts}
    assert words[0] == "serve"
    assert {word for word in words if word.startswith("--")} <= flags


@pytest.mark.slow
def test_the_coprocess_of_the_page_answers(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "sidtool"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidtool "$@"\n')
    program.chmod(0o755)
    (tmp_path / "tuned").symlink_to(model)
    (block,) = (text for text in blocks(page("serving.md"), "sh") if "coproc" in text)
    answer = json.loads(shell(block + 'echo "$answer"', tmp_path, PYTHONPATH=str(ROOT)))
    assert answer["user"] == "u1"
    assert len(answer["items"]) == 10


@pytest.mark.slow
def test_a_second_interrupt_ends_a_service_within_a_batch(model: Path, tmp_path: Path) -> None:
    limits = ("--batch-wait", 1000 * DEADLOCK, "--timeout", DEADLOCK)
    with running(tmp_path / "log", model, *limits) as service:
        service.wait_until_ready()
        url = urlsplit(service.url)
        with socket.create_connection((url.hostname, url.port)) as connection:
            connection.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\n")
            connection.sendall(b'content-length: 14\r\n\r\n{"history":[]}')
            wait_until(lambda: "sidtool_waiting_requests 1.0" in service.get("/metrics"))
            service.process.send_signal(signal.SIGINT)
            wait_until(lambda: not is_open(url.port))
            service.process.send_signal(signal.SIGINT)
            assert service.process.wait(DEADLOCK) == -signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_ends_closes_its_port_and_answers_its_calls(
    model: Path, expected: list[str], tmp_path: Path, workers: int
) -> None:
    limits = ("--workers", workers, "--timeout", DEADLOCK)
    with running(tmp_path / "log", model, *limits) as service:
        service.wait_until_ready()
        answer = call_across_sigterm(
            service, BODY, lambda port: wait_until(lambda: not is_open(port))
        )
        assert answer["items"] == expected
        assert service.process.wait(DEADLOCK) == 0


def call_across_sigterm(
    service: Running, body: Any, ends: Callable[[int | None], object] = lambda port: None
) -> Any:
    """The answer to a call whose body is sent after the service got SIGTERM and `ends`, of its
    port, has returned; the service asked for the body before."""
    data = json.dumps(body).encode()
    url = urlsplit(service.url)
    with socket.create_connection((url.hostname, url.port), timeout=DEADLOCK) as connection:
        connection.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\n")
        connection.sendall(b"content-length: %d\r\nexpect: 100-continue\r\n\r\n" % len(data))
        assert connection.recv(1 << 12).startswith(b"HTTP/1.1 100 ")
        service.process.send_signal(signal.SIGTERM)
        ends(url.port)
        time.sleep(0.5)  # in which a service that waits for no call would end
        connection.sendall(data)
        answer = b"".join(iter(lambda: connection.recv(1 << 12), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def is_open(port: int | None) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_killed_worker_is_replaced(model: Path, expected: list[str], tmp_path: Path) -> None:
    with running(tmp_path / "log", model, "--workers", 2, "--timeout", DEADLOCK) as service:
        service.wait_until_ready()
        workers = children(service.process.pid)
        os.kill(workers[0], signal.SIGKILL)
        for _ in range(20):
            assert service.post("/v1/recommend", BODY)["items"] == expected
        pid = service.process.pid
        wait_until(lambda: len(now := children(pid)) >= 2 and workers[0] not in now)
        now = children(pid)
        page = service.get("/metrics")
        counted = 'sidtool_calls_total{path="/v1/recommend",status="200"} 20.0'
        assert counted in page  # by both workers together
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(DEADLOCK) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in (*workers, *now))


def children(pid: int) -> list[int]:
    """The worker processes of a supervisor: those that run sidtool's code."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return [child for child, command in commands.items() if b"spawn_main" in command]


def test_a_service_that_cannot_start_says_so(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(1, "serve", model, "--port", port)
        assert f"127.0.0.1 port {port} cannot be used" in message
    assert "there is no model at" in refused(1, "serve", tmp_path, "--port", 0)
    assert "there is no model at" in refused(1, "serve", tmp_path, "--port", 0, "--workers", 2)
    for words, text in (
        (("--workers", 0), "--workers must be at least 1"),
        (("--port", 70000), "--port must be at most 65535"),
        (("--max-beams", 20), "raise --max-beams"),
        (("--timeout", 0), "--timeout must be more than 0"),
        (("--poll", 0), "--poll must be more than 0"),
        (("--batch-wait", 99999), "0 to 30.0 seconds"),
        (("--max-body", "x"), "x"),
    ):
        assert text in refused(2, "serve", model, *words)
    empty = tmp_path / "token"
    empty.write_text("\n")
    assert "has no token" in refused(2, "serve", model, "--token-file", empty)
    assert "cannot be read" in refused(1, "serve", model, "--token-file", tmp_path / "none")
    assert "has no token" in refused(2, "serve", model, env={"SIDTOOL_TOKEN": ""})


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_port_that_is_taken_while_the_model_loads_is_named(
    model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def bound_as_other_listens(listening: Listening) -> socket.socket:
        other = stack.enter_context(bind(listening))
        listening = replace(listening, port=other.getsockname()[1])
        late = bind(listening)
        other.listen()
        return late

    bind = process.bound_socket
    with ExitStack() as stack:
        monkeypatch.setattr(process, "bound_socket", bound_as_other_listens)
        message = refused(1, "serve", model, "--port", 0, "--workers", workers)
    message += capfd.readouterr().err
    assert "cannot be used: Address already in use" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("no model"), "no model"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
    ],
)
def test_a_process_that_cannot_start_logs_why(
    shop: LoadedModel,
    error: Exception,
    line: str,
    is_open: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Service, "open", fail)
    service = open_service(shop) if is_open else None
    with (
        process.bound_socket(Listening(port=0)) as listener,
        log_to_stderr(verbose=False),
        pytest.raises(SystemExit, match="3"),
    ):
        process.run_process(OPTIONS, listener, service, on_start=fail)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(f" error: {line}")
    assert second.endswith(" error: Application startup failed. Exiting.")


def test_a_service_in_a_cell_of_a_notebook_is_refused_in_one_line() -> None:
    async def cell() -> None:
        serve("no-model", port=0)

    with pytest.raises(UsageError, match="cannot run inside of an event loop") as caught:
        asyncio.run(cell())
    assert (
        caught.value.hint
        == "threading.Thread(target=sidtool.serve, args=[...], daemon=True).start()"
    )


KILLED = """
import os, signal
from sidtool.recommendation.serve.start import service_folder

with service_folder() as folder:
    (folder / "copy").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_service_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with service_folder() as running:
        subprocess.run([sys.executable, "-c", KILLED], env={"TMPDIR": str(tmp_path)}, check=False)
        folders = {path for path in tmp_path.iterdir() if path.is_dir()}
        assert len(folders) == 2
        assert running in folders
        with service_folder() as other:
            assert {path for path in tmp_path.iterdir() if path.is_dir()} == {running, other}
            assert other.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("soft", "hard", "is_refused", "expected"),
    [
        (1024, 100_000, False, 3000),
        (1024, 4096, False, 2048),  # half of what may be open
        (1024, 100_000, True, 512),  # the limit stays what it was
    ],
)
def test_connections_are_as_many_as_files_may_be_open(
    soft: int, hard: int, is_refused: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(soft, hard)]

    def setrlimit(kind: int, pair: tuple[int, int]) -> None:
        if is_refused:
            raise ValueError("as macOS does beyond its own limit")
        limits.append(pair)

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    assert process._max_connections(3000) == expected
