"""The machine, the versions and the commit that a result was measured with, and its file."""

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("sidtool", "torch", "transformers", "trl", "sentence-transformers", "numpy", "zarr")


def environment() -> dict[str, object]:
    """Processor, number of cores, Python and package versions, git commit."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The call of a script, without the folders of this machine: of an absolute path the name."""
    parts = [Path(word).name if Path(word).is_absolute() else word for word in arguments]
    return shlex.join(["python", f"benchmarks/{script}", *parts])


def store_under(name: str, result: Any, out: Path) -> None:
    """Write a result into a file of several, which have names."""
    stored = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    out.write_text(json.dumps(stored | {name: result}, indent=1) + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this checkout, followed by "+changes" if files differ from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _processor() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    print(json.dumps(environment()))
