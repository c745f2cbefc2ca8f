import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest
import uvicorn

from sidtool.model.load import LoadedModel
from sidtool.recommendation.serve import process
from sidtool.recommendation.serve.serve_options import Listening, ServeLimits
from tests.recommendation.serve.conftest import OPTIONS, open_service

SECONDS = 60
Connect = Callable[[], socket.socket]
StartServer = Callable[..., Connect]

BODY = json.dumps({"history": ["i1", "i2"], "k": 3}).encode()
CALL = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.fixture
def start_server(shop: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartServer]:
    """A function that answers calls on a port in a thread, with these constants of `process`, and
    returns a function that connects to it."""
    servers: list[uvicorn.Server] = []

    class Server(process._Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    monkeypatch.setattr(process, "_Server", Server)
    with ExitStack() as stack:

        def start(**constants: int) -> Connect:
            for name, value in constants.items():
                monkeypatch.setattr(process, name, value)
            options = replace(OPTIONS, limits=ServeLimits(max_waiting=8))
            listener = stack.enter_context(process.bound_socket(Listening(port=0)))
            started = threading.Event()
            thread = threading.Thread(
                target=process.run_process,
                args=(options, listener, open_service(shop, options)),
                kwargs={"on_start": started.set},
            )
            thread.start()
            stack.callback(thread.join)
            stack.callback(lambda: [setattr(server, "should_exit", True) for server in servers])
            assert started.wait(SECONDS)
            address = listener.getsockname()
            return lambda: stack.enter_context(socket.create_connection(address, timeout=SECONDS))

        yield start


def read_all(connection: socket.socket) -> bytes:
    """What arrives until the server ends the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            received += piece
    return bytes(received)


def answer(connect: Connect, call: bytes) -> bytes:
    """The answer to a call on a connection of its own."""
    with connect() as connection:
        connection.sendall(call)
        return read_all(connection)


def test_idle_connections_make_room_for_others(start_server: StartServer) -> None:
    connect = start_server(SPARE_CONNECTIONS=40)
    idle = [connect() for _ in range(100)]
    assert answer(connect, HEALTH).startswith(b"HTTP/1.1 200 ")
    assert answer(connect, CALL.replace(b"host", b"connection: close\r\nhost")).count(b'"items"')
    assert read_all(idle[0]) == b""
    idle[-1].sendall(HEALTH)
    assert read_all(idle[-1]).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_does_not_arrive_makes_room_too(start_server: StartServer) -> None:
    connect = start_server(SPARE_CONNECTIONS=40)
    for _ in range(100):
        connect().sendall(CALL[:-1])
    assert answer(connect, HEALTH).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("start", [b"", HEALTH.replace(b"connection: close\r\n", b"")])
def test_silent_and_slow_connections_are_ended(start_server: StartServer, start: bytes) -> None:
    connect = start_server(KEEP_ALIVE_SECONDS=1)
    silent, slow = connect(), connect()
    for connection in (silent, slow):
        connection.sendall(start)
    sent = 0
    with suppress(BrokenPipeError, ConnectionResetError):
        for sent in range(600):
            slow.sendall(b"GET / HTTP/1.1\r\nx: "[sent : sent + 1] or b"x")
            time.sleep(0.1)
    assert sent < 599
    assert read_all(silent).startswith(start and b"HTTP/1.1 200 ")


@pytest.mark.parametrize("piece", [b"x", b"x: y\r\n"], ids=["one header", "many headers"])
def test_an_endless_head_is_refused(start_server: StartServer, piece: bytes) -> None:
    connection = start_server()()
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
        for _ in range(100):
            connection.sendall(piece * 10_000)
    assert b" 200 " not in read_all(connection)


def test_a_client_may_end_its_half_after_its_requests(start_server: StartServer) -> None:
    connection = start_server()()
    connection.sendall(CALL + CALL)
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection).count(b"HTTP/1.1 200 ") == 2


def test_a_client_that_sends_before_it_reads_learns_that_its_body_is_too_long(
    start_server: StartServer,
) -> None:
    size = 16 << 20  # more than the buffers of both sockets
    head = b"POST /v1/recommend HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % size
    received = answer(start_server(), head + b" " * size)
    assert received.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_waits_to_send_a_body_that_is_too_long_does_not_send_it(
    start_server: StartServer,
) -> None:
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
    received = answer(start_server(), head + b"content-length: 9999999\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 413 ")
