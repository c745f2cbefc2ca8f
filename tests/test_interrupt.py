import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidtool import __version__

HOOK = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


AT_EXIT = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")


def run_with(hook: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a hook that is called as Python starts."""
    (folder / "sitecustomize.py").write_text(hook)
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "sidtool", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), root])},
        capture_output=True,
        text=True,
        # a shell ignores interrupts for what it runs in the background, and pytest may run there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    "name", ["sidtool.cli.main", "sidtool.cli.terminal", "rich.console", "sidtool.cli.evaluate"]
)
def test_an_interrupt_while_modules_are_imported_is_no_traceback(tmp_path: Path, name: str) -> None:
    ended = run_with(HOOK.format(name=name), tmp_path, "evaluate", "--help")
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_while_the_interpreter_ends_is_no_traceback(tmp_path: Path) -> None:
    ended = run_with(AT_EXIT, tmp_path, "--version")
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")
    assert __version__ in ended.stdout
