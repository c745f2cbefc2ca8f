"""A node whose disk is full ends a command with one line; when it has space, the command continues
to the bytes of one process."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.cli.road import done
from tests.integrations.cluster.test_cluster_kills import (
    LAST,
    NODE,
    TwoNodes,
    command,
    nodes,
    shop,
    start,
    values,
)
from tests.waiting import DEADLOCK

pytestmark = pytest.mark.slow

__all__ = ["nodes", "shop"]

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
def test_a_full_disk(
    nodes: TwoNodes,
    shop: Path,
    tmp_path: Path,
    step: str,
    disk: Literal["the temporary files of the second node", "the output"],
) -> None:
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
