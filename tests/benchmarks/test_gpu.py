import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
FAKE = """#!/usr/bin/env bash
# in place of python: notes the piece, fails in the pieces that the file `fails` names
echo "$2" >> "$CALLS"
if grep -qx "$2" "$FAILS"; then exit 3; fi
echo '{"figures": {"x": 1.5}, "device": "none"}'
"""


def job(folder: Path, fails: str) -> tuple[int, list[str], str]:
    """Run gpu.sh with a fake python: exit code, pieces that ran, stderr."""
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    python.write_text(FAKE)
    python.chmod(0o755)
    calls, failing = folder / "calls", folder / "fails"
    calls.write_text("")
    failing.write_text(fails)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment |= {"CALLS": str(calls), "FAILS": str(failing)}
    command = ["bash", str(SCRIPT), str(folder / "work"), "cpu"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    return ran.returncode, calls.read_text().split(), ran.stderr


def test_a_job_that_was_stopped_goes_on(tmp_path: Path) -> None:
    code, calls, errors = job(tmp_path, "decoder\n")
    assert code == 1
    assert (calls[:4], calls[-1]) == (["parity", "decoder", "floor", "graphs"], "table")
    assert len(calls) == 4 + 12 + 1
    assert "decoder: failed with 3" in errors
    assert not (tmp_path / "work" / "decoder.json").exists()
    assert (tmp_path / "work" / "training-Qwen3-0.6B-lora.json").exists()
    code, calls, errors = job(tmp_path, "")
    assert (code, calls, errors) == (0, ["decoder", "table"], "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["parity", "decoder", "floor", "graphs", "training:Qwen3-0.6B:lora"]
)
def test_every_piece_runs_on_a_cpu(piece: str) -> None:
    import gpu
    import torch

    figures = gpu.measure(piece, torch.device("cpu"))
    assert figures
    if piece == "parity":
        assert figures["largest_difference"] == 0  # of the CPU from itself
        assert figures["sids"] > 0
    if piece.startswith("training"):
        assert figures["tokens_per_second"] > 0
    with pytest.raises(SystemExit, match="there is no"):
        gpu.measure("training:none:lora", torch.device("cpu"))
