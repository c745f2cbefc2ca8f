"""A server process and HTTP clients for `serve.py`: keep-alive connections of asyncio streams, one
call in flight on each."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

START_SECONDS = 300
MAX_ATTEMPTS = 100
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """The answer to one call."""

    status: int
    body: Any
    bundle: str
    """digits of the digest of the bundle that it is from"""
    seconds: float
    attempts: int = 1
    """calls until there was an answer: those to a worker that was killed have none"""


@dataclass(frozen=True)
class Server:
    """A running `sidtool serve`."""

    url: str
    process: "subprocess.Popen[str]"

    def workers(self) -> list[int]:
        """The processes that answer."""
        pid = self.process.pid
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        children = [int(child) for child in pids if b"spawn_main" in _command(int(child))]
        return children or [pid]

    def cpu_seconds(self) -> float:
        """CPU seconds that all of them have used."""
        total = 0.0
        for pid in self.workers():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
        return total

    def resident_bytes(self) -> list[int]:
        """Bytes in memory of each worker."""
        sizes = []
        for pid in self.workers():
            try:
                pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
            except (FileNotFoundError, IndexError, ProcessLookupError):
                continue  # it was killed a moment ago
            sizes.append(int(pages) * PAGE_BYTES)
        return sizes

    def stop(self) -> int:
        """Send SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@contextmanager
def serving(folder: Path, *words: object) -> Iterator[Server]:
    """`sidtool serve` with these words on a free port of 127.0.0.1, until the block ends."""
    command = [sys.executable, "-m", "sidtool", "serve", *map(str, words), "--port", "0"]
    log = folder / "serve.log"
    with (
        log.open("a") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            end = time.monotonic() + START_SECONDS
            while not _is_ready(url):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            yield Server(url, process)
        finally:
            if process.poll() is None:
                process.terminate()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, ValueError):
        return False


class Client:
    """One connection, opened when it is needed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = str(parts.hostname)
        self._port = int(parts.port or 80)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: Body, *, retry: bool = False) -> Reply:
        """The reply to a call; with `retry` it is repeated if the connection breaks."""
        start = time.perf_counter()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                status, headers, content = await self._call(json.dumps(body).encode())
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if not retry:
                    raise
                await asyncio.sleep(0.05)
                continue
            seconds = time.perf_counter() - start
            bundle = headers.get("sidtool-bundle", "")
            return Reply(status, json.loads(content), bundle, seconds, attempt)
        raise ConnectionError(f"no answer after {MAX_ATTEMPTS} calls")

    async def _call(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = f"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, body

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def saturate(
    url: str, bodies: Sequence[Body], n_clients: int, *, retry: bool = False
) -> list[Reply]:
    """The replies to calls, in their order; each client sends its next call when it has the reply
    to the one before."""
    replies: list[Reply | None] = [None] * len(bodies)
    waiting = deque(range(len(bodies)))

    async def work() -> None:
        client = Client(url)
        while waiting:
            number = waiting.popleft()
            replies[number] = await client.post(bodies[number], retry=retry)
        client.close()

    await asyncio.gather(*(work() for _ in range(n_clients)))
    assert all(reply is not None for reply in replies)
    return [reply for reply in replies if reply is not None]


async def open_loop(url: str, bodies: Sequence[Body], rate: float, *, seed: int) -> list[Reply]:
    """The replies to calls that arrive at random, `rate` per second, whatever the server does."""
    draw = random.Random(seed)
    idle: list[Client] = []
    clients: list[Client] = []

    async def call(body: Body) -> Reply:
        if not idle:
            clients.append(Client(url))
            idle.append(clients[-1])
        client = idle.pop()
        reply = await client.post(body)
        idle.append(client)
        return reply

    tasks = []
    due = time.perf_counter()
    for body in bodies:
        due += draw.expovariate(rate)
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(call(body)))
    replies = await asyncio.gather(*tasks)
    for client in clients:
        client.close()
    return list(replies)
