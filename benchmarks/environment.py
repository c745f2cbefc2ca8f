"""Print, as JSON, the machine and the versions that a figure was made with."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("sidtool", "torch", "transformers", "trl", "sentence-transformers", "numpy", "zarr")


def environment() -> dict[str, object]:
    """Processor, cores, memory, Python and package versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    machine = f"{_processor()}, {os.cpu_count()} cores"
    return {"machine": machine, "python": platform.python_version(), "versions": versions}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    print(json.dumps(environment()))
