"""Compare the speed of this checkout with that of an earlier commit, in one run.

    python benchmarks/speed_since.py [--commit COMMIT] [--rounds 7] [--steps 30] [--json]

Two processes, one with the code of the commit and one with that of this checkout, do the same work
in turns: rendering 2,000 histories of 20 SIDs as prompts, and training on whole histories. Each
turn counts its own CPU seconds, so that a busy machine disturbs neither side alone. The default is
the last commit before events and users had fields. `ratio` is the speed of this checkout over that
of the commit, the median over the rounds, of which the first does not count."""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
BEFORE_FIELDS = "623db4a~1"
HISTORIES = 2_000
LENGTH = 20
PARTS = ("rendering", "training")

Work = Callable[[], tuple[float, int]]
"""CPU seconds of a turn, and how many prompts or tokens it made."""


class Side:
    """A process that works with the code of one checkout."""

    def __init__(self, checkout: Path, steps: int) -> None:
        paths = f"{checkout}{os.pathsep}{checkout / 'benchmarks'}"
        self._process = subprocess.Popen(
            # -P: the folder of this script is no place to import from
            [sys.executable, "-P", __file__, "--work", str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def turn(self, part: str) -> float:
        """Prompts or tokens per CPU second of one turn. Raises RuntimeError if the process died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(part, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self._process.wait()}")
        seconds, count = json.loads(line)
        return float(count / seconds)

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(before: Path, now: Path, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """For each part the speed of both checkouts, and their ratio."""
    sides = {"before": Side(before, steps), "now": Side(now, steps)}
    speeds: dict[str, dict[str, list[float]]] = {
        part: {name: [] for name in sides} for part in PARTS
    }
    for number in range(rounds + 1):
        # who comes first has the colder caches
        names = sorted(sides, reverse=number % 2 == 1)
        for part in PARTS:
            for name in names:
                speeds[part][name].append(sides[name].turn(part))
    for side in sides.values():
        side.end()
    result = {}
    for part, side_speeds in speeds.items():
        pairs = zip(side_speeds["now"][1:], side_speeds["before"][1:], strict=True)
        ratios = [now_speed / before_speed for now_speed, before_speed in pairs]
        medians = {name: median(values[1:]) for name, values in side_speeds.items()}
        result[part] = {"ratio": median(ratios), **medians}
    return result


def work(steps: int) -> None:
    """Do a turn of a part for each line of stdin."""
    import torch

    torch.set_num_threads(1)
    # libraries print, and the answers go to stdout alone
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"rendering": rendering(), "training": training(Path(folder), steps)}
        for line in sys.stdin:
            print(json.dumps(parts[line.strip()]()), file=answers, flush=True)


def rendering() -> Work:
    """Renders histories as the prompts of requests."""
    import numpy as np

    from sidtool.model.presets import MIN_VOCABULARY, train_tokenizer
    from sidtool.model.prompt.assemble import history_prompt_ids
    from sidtool.model.prompt.prompts import HistoryPrompt
    from sidtool.model.vocabulary.tokens import SidTokens
    from sidtool.tokenizer.sid import SidSpace

    space = SidSpace((256, 256, 256))
    tokenizer = train_tokenizer([f"word{n}" for n in range(2000)], MIN_VOCABULARY)
    tokens = SidTokens(space, len(tokenizer))
    tokenizer.add_tokens(list(space.tokens))
    prompt = HistoryPrompt("next-item", "A user bought {history} and then ", LENGTH, 512)
    rng = np.random.default_rng(0)
    histories = rng.integers(0, 256, (HISTORIES, LENGTH, 3)).astype(np.uint16)

    def render() -> tuple[float, int]:
        start = time.process_time()
        for codes in histories:
            history_prompt_ids(prompt, tokenizer, tokens, codes)
        return time.process_time() - start, HISTORIES

    return render


def training(folder: Path, steps: int) -> Work:
    """Trains on whole histories, from the same start every time."""
    from training_speed import CASES, WARM_UP, prepare

    from sidtool.training.settings import TrainOptions
    from sidtool.training.training import train

    case = CASES["sid-only"]
    model, examples = prepare(case, folder, steps)
    n_turns = 0

    def run() -> tuple[float, int]:
        nonlocal n_turns
        n_turns += 1
        seconds = [0.0]

        def after_step(done: int, total: int) -> None:
            if done == WARM_UP:
                seconds[0] = time.process_time()
            if done == total:
                seconds.append(time.process_time())

        options = TrainOptions(softmax_over=case.softmax_over, batching="packed")
        fields = {"max_steps": steps, "per_device_train_batch_size": case.batch}
        summary = train(
            model,
            examples,
            folder / f"tuned-{n_turns}",
            options=options,
            sft_fields={**fields, "save_strategy": "no"},
            progress=after_step,
        )
        assert summary.tokens is not None
        share = (steps - WARM_UP) / steps
        return seconds[1] - seconds[0], round(share * summary.tokens)

    return run


def checkout(commit: str, folder: Path) -> Path:
    """The files of a commit of this repository, in a folder."""
    command = ["git", "-C", str(HERE.parent), "archive", commit]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def main() -> int:
    """Print the speeds and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default=BEFORE_FIELDS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=int, metavar="STEPS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work)
        return 0
    from environment import environment
    from table import markdown

    with tempfile.TemporaryDirectory() as folder:
        before = checkout(args.commit, Path(folder))
        result = compare(before, HERE.parent, args.rounds, args.steps)
    if args.json:
        print(json.dumps({**environment(), "before": args.commit, **result}))
        return 0
    rows = [
        [part, f"{speeds['before']:.0f}", f"{speeds['now']:.0f}", f"{speeds['ratio']:.3f}"]
        for part, speeds in result.items()
    ]
    print(json.dumps(environment()))
    print(markdown(["", f"per CPU second at {args.commit}", "now", "ratio"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
