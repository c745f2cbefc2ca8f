"""No command opens a socket, starts a process, unpickles or runs code that it was not asked to."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_commands_only_read_and_write_files(tmp_path: Path) -> None:
    hidden = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI")
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.startswith("SIDTOOL_")
    }
    # a token and an agent would be sent to the hub
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_TOKEN": "x", "AI_AGENT": "x"}
    folder = tmp_path / "road"
    folder.mkdir()
    line = [sys.executable, "-P", "-m", "tests.audited", str(folder)]
    program = subprocess.run(line, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert program.returncode == 0, program.stderr[-3000:]
    assert json.loads(program.stdout.splitlines()[-1]) == {"events": {}, "ran": []}
