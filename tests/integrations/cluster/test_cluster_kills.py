"""Workers, nodes and commands that are killed at random moments change no byte of an output, and a
node whose disk is full ends a command with one line.

Each step runs by two workers on two raylets, is killed again and again or lacks space, and
continues; its output is at every moment absent or that of one process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.memory import Memory
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.sid import SidSpace
from tests.cli.road import done, tree
from tests.waiting import DEADLOCK

pytestmark = pytest.mark.slow

N_EVENTS, N_USERS, N_ITEMS, N_FILES = 200_000, 20_000, 4096, 8
KILLS = 12
"""Kills of each step."""
LONGEST_PAUSE = 5.0
"""Seconds between the kills of a run."""
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


LAST = {"split": "split", "make-sft": "train.jsonl.meta.json", "build-memory": "memory.zarr"}
"""What appears last of a step's output."""


@dataclass
class TwoNodes:
    """A cluster of two raylets, the second of which may be killed."""

    cluster: Any
    second: Any = None

    @property
    def env(self) -> dict[str, str]:
        """What a command needs to use it."""
        ray = {"RAY_ADDRESS": self.cluster.address, "RAY_USAGE_STATS_ENABLED": "0"}
        return os.environ | ray | {"OMP_NUM_THREADS": "1"}

    def complete(self) -> None:
        """Start a second node if there is none."""
        if self.second is None:
            self.second = self.cluster.add_node(**NODE)
            self.cluster.wait_for_nodes()

    def kill_worker(self, draw: Random) -> bool:
        """Kill a random worker -> whether there was one."""
        nodes = [node for node in (self.cluster.head_node, self.second) if node is not None]
        raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
        workers = sorted(worker for raylet in raylets for worker in workers_of(raylet))
        if not workers:
            return False
        with suppress(ProcessLookupError):
            os.kill(draw.choice(workers), signal.SIGKILL)
        return True

    def kill_node(self) -> bool:
        """Kill the raylet of the second node, without a replacement -> whether there was one."""
        if self.second is None:
            return False
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None
        return True


def workers_of(raylet: int) -> Iterator[int]:
    """The processes of a node's workers."""
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for child in children:
        with suppress(OSError):  # it has just ended
            if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::_Actor"):
                yield int(child)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))  # killed workers leave files
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        yield TwoNodes(cluster)
        cluster.shutdown()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events in several files, a catalog, a bundle and a split in parts."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "events").mkdir()
    rng = np.random.default_rng(0)
    users = np.arange(N_EVENTS) % N_USERS
    items = (N_ITEMS * rng.random(N_EVENTS) ** 2).astype(int)
    times = rng.integers(0, 10**6, N_EVENTS)
    ids = {"user_id": [f"u{user}" for user in users], "item_id": [f"i{item}" for item in items]}
    table = pa.table({**ids, "timestamp": times})
    rows = N_EVENTS // N_FILES
    for number in range(N_FILES):
        pq.write_table(table.slice(number * rows, rows), folder / "events" / f"{number}.parquet")
    ids = [f"i{item}" for item in range(N_ITEMS)]
    pq.write_table(pa.table({"item_id": ids, "title": ids}), folder / "items.parquet")
    codes = np.array([divmod(item, 64) for item in range(N_ITEMS)], dtype=np.uint16)
    item_map = ItemMap.of(SidSpace((64, 64)), ids, codes)
    Bundle.of(item_map, None, "allow", name="shop").save(folder / "shop.zarr")
    done("split", folder / "events", "-o", folder / "split", "--parts", 32)
    return folder


def command(step: str, shop: Path, out: Path) -> tuple[object, ...]:
    """A step without its workers."""
    split, bundle = shop / "split", shop / "shop.zarr"
    return {
        "split": ("split", shop / "events", "-o", out / "split", "--parts", 32),
        "make-sft": ("make-sft", bundle, shop / "items.parquet", split, "-o", out / "train.jsonl"),
        "build-memory": ("build-memory", split, bundle, "-o", out / "memory.zarr"),
    }[step]


def start(nodes: TwoNodes, *words: object) -> "subprocess.Popen[str]":
    """Start a command on a cluster."""
    return subprocess.Popen(
        [sys.executable, "-m", "sidtool", *map(str, words), "--engine", "ray", "--workers", "2"],
        env=nodes.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_workers_share_one_node(nodes: TwoNodes, shop: Path, tmp_path: Path) -> None:
    """The second waits for a processor until the first has nothing left to do."""
    nodes.kill_node()
    process = start(nodes, *command("split", shop, tmp_path))
    message, _ = process.communicate(timeout=DEADLOCK)
    assert process.returncode == 0, message
    assert tree(tmp_path / "split") == tree(shop / "split")


@pytest.mark.parametrize("step", LAST)
def test_kills_change_no_byte(
    nodes: TwoNodes, shop: Path, tmp_path: Path, step: str, record_testsuite_property: Any
) -> None:
    out, draw, kills = tmp_path / "out", Random(step), Counter[str]()
    codes: list[int] = []
    out.mkdir()
    (tmp_path / "one").mkdir()
    done(*command(step, shop, tmp_path / "one"))
    expected = values(tmp_path / "one")
    while True:
        nodes.complete()
        process = start(nodes, *command(step, shop, out), "--resume")
        is_last = kills.total() >= KILLS
        while kills.total() < KILLS and not ended_within(process, draw.random() * LONGEST_PAUSE):
            kills.update(kill_something(nodes, process, draw))
        message, _ = process.communicate(timeout=DEADLOCK)
        codes.append(process.returncode)
        assert "Traceback" not in message
        if process.returncode and not (out / LAST[step]).exists():
            assert not is_last, message
            continue
        assert values(out) == expected
        if is_last:
            break
        shutil.rmtree(out)
        out.mkdir()
    assert kills["worker"]
    record_testsuite_property(f"kills, {step}", dict(kills))
    record_testsuite_property(f"exit codes, {step}", codes)


def values(out: Path) -> tuple[dict[str, bytes], str]:
    """Every file of an output without that which has the time of a memory, and the memory's
    digest."""
    files = tree(out)
    has_memory = files.pop("memory.zarr/zarr.json", None) is not None
    return files, Memory.open(out / "memory.zarr").digest if has_memory else ""


def ended_within(process: "subprocess.Popen[str]", seconds: float) -> bool:
    """Whether a command ends within some seconds."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    return process.poll() is not None


def kill_something(nodes: TwoNodes, process: "subprocess.Popen[str]", draw: Random) -> list[str]:
    """Kill a worker, or less often the second node or the command -> what was killed."""
    kind = draw.choice(["worker"] * 5 + ["node", "command"])
    if kind == "command":
        process.kill()
        return [kind]
    killed = nodes.kill_node() if kind == "node" else nodes.kill_worker(draw)
    return [kind] if killed else []


FULL, ROOM = "48k", "512m"
"""Sizes of the disk: too small for a part, and large enough."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, of a few kilobytes."""
    folder.mkdir()
    mounted = mount(folder, "-t", "tmpfs", "-o", f"size={FULL}", "tmpfs")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True)


def run(nodes: TwoNodes, step: str, shop: Path, out: Path) -> tuple[int, str]:
    """Run a step by two workers -> its exit code and the last line on stderr but for the hint."""
    process = start(nodes, *command(step, shop, out), "--resume")
    message, _ = process.communicate(timeout=DEADLOCK)
    assert "Traceback" not in message, message
    return process.returncode, message


@pytest.mark.parametrize("step", LAST)
@pytest.mark.parametrize("disk", ["the temporary files of the second node", "the output"])
def test_a_full_disk(nodes: TwoNodes, shop: Path, tmp_path: Path, step: str, disk: str) -> None:
    (tmp_path / "one").mkdir()
    done(*command(step, shop, tmp_path / "one"))
    with small_disk(tmp_path / "small") as small:
        out = tmp_path / "out"
        nodes.kill_node()
        if disk == "the output":
            out = small / "out"
            nodes.complete()
        else:
            nodes.second = nodes.cluster.add_node(**NODE, env_vars={"TMPDIR": str(small)})
            nodes.cluster.wait_for_nodes()
        out.mkdir()
        code, message = run(nodes, step, shop, out)
        assert code == 1, message
        [line] = [line for line in message.splitlines() if "cannot be written" in line]
        assert str(small) in line
        assert "no space left on device" in line.lower()
        assert not (out / LAST[step]).exists()
        assert mount(small, "-o", f"remount,size={ROOM}").returncode == 0
        code, message = run(nodes, step, shop, out)
        assert code == 0, message
        assert values(out) == values(tmp_path / "one")
        nodes.kill_node()
