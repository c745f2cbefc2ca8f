"""Compare a step of `sidtool rl` with its floor: one beam search, and one forward and backward pass
over all items of all groups, each behind its own copy of the prompt.

    python benchmarks/reinforcement_speed.py [--steps 10] [--size 16] [--prompts 16] [--json]

Both make their steps in turns in one process, on the model and catalog of `training_speed.py`
(sid-only), so that a busy machine disturbs both alike. The floor uses the partial head and the same
optimizer; it has no rewards, no divergence from the start and no targets. The peak memory of each
is measured in a process of its own, beyond what it holds before its steps; the supervised step has
as many tokens as the floor."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from environment import environment
from table import markdown
from training_speed import CASES, prepare

from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.partial_head import PartialHead
from sidtool.tokenizer.sid import Leaves
from sidtool.training.loop.machine import class_forward, quiet
from sidtool.training.reinforcement.policy import pad_left
from sidtool.training.reinforcement.reinforcement import grpo_config
from sidtool.training.reinforcement.rl_run import plan_rl
from sidtool.training.reinforcement.settings import RlOptions
from sidtool.training.reinforcement.trainer import GroupTrainer
from sidtool.training.reinforcement.trainer_setup import build_trainer
from sidtool.training.settings import TrainOptions
from sidtool.training.training import train

WARM_UP = 2
"""Steps that do not count."""
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "beam": ({"beta": 0.0}, {"sft_weight": 0.0}),
    "beam, divergence and targets": ({"beta": 0.04}, {"sft_weight": 0.1}),
}
"""Fields of GRPOConfig and options of each kind of step."""
Step = Callable[[int], None]


def start_model(folder: Path) -> tuple[Path, Path]:
    """A model that was trained for a step, and its training examples."""
    case = replace(CASES["sid-only"], batch=64)
    base, examples = prepare(case, folder, steps=4)
    start = folder / "start"
    options = TrainOptions(softmax_over="trie")
    fields = {"max_steps": 1, "logging_steps": 1}
    train(base, examples, start, options=options, sft_fields=fields)
    return start, examples


def trainer_of(
    start: Path, examples: Path, out: Path, size: int, prompts: int, variant: str
) -> GroupTrainer:
    """The trainer of a variant."""
    fields, options = VARIANTS[variant]
    batch = {"num_generations": size, "per_device_train_batch_size": size * prompts}
    rl_options = RlOptions(**options)
    run = plan_rl(start, examples, out, rl_options, {**fields, **batch})
    trainer = build_trainer(run, grpo_config(run), True, None, None)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def rl_step(trainer: GroupTrainer, prompts: int) -> Step:
    """A step of the trainer: groups, rewards, loss, gradient and optimizer."""

    def step(number: int) -> None:
        rows = np.arange(number * prompts, (number + 1) * prompts) % len(trainer.examples)
        batch = [
            {"prompt": str(row)} for row in rows.tolist() for _ in range(trainer.num_generations)
        ]
        trainer.training_step(trainer.model, batch, None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def floor_step(trainer: GroupTrainer, prompts: int, *, search: bool = True) -> Step:
    """A step of the floor on the same examples; without `search`, a supervised step on as many
    tokens."""
    session = trainer.session
    model = trainer.model
    head = PartialHead(model)
    size = trainer.num_generations
    levels = session.trie.levels
    starts = torch.from_numpy(session.tokens.level_starts)
    head.install()
    examples = trainer.examples

    def step(number: int) -> None:
        rows = np.arange(number * prompts, (number + 1) * prompts) % len(examples)
        ids = [session.from_history(examples.history(row)) for row in rows.tolist()]
        with class_forward(model):
            leaves = np.zeros((prompts, size), dtype=np.int64)
            if search:
                beams = beam_search(
                    model,
                    ids,
                    session.trie,
                    session.tokens,
                    num_beams=size,
                    k=size,
                    normalize="trie",
                )
                leaves = np.stack([beam.leaves for beam in beams])
            model.train()
            codes = torch.from_numpy(
                session.trie.leaf_codes(Leaves(leaves.ravel())).astype(np.int64)
            )
            padded, mask = pad_left([torch.tensor(prompt) for prompt in ids])
            padded = padded.repeat_interleave(size, 0)
            mask = mask.repeat_interleave(size, 0)
            whole = torch.cat([padded, (codes + starts)[:, :-1]], dim=1)
            mask = torch.cat([mask, torch.ones_like(codes[:, :-1])], dim=1)
            first = torch.arange(len(whole)) * whole.shape[1] + padded.shape[1] - 1
            spans = [
                (int(starts[level]), int(starts[level]) + session.trie.sizes[level])
                for level in range(levels)
            ]
            parts = [(first + level, spans[level]) for level in range(levels)]
            blocks = head.blocks(
                lambda: model(input_ids=whole, attention_mask=mask, use_cache=False).logits, parts
            )
            losses = [
                torch.nn.functional.cross_entropy(block, codes[:, level])
                for level, block in enumerate(blocks)
            ]
            torch.stack(losses).mean().backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

    return step


def time_steps(folder: Path, size: int, prompts: int, steps: int) -> list[dict[str, Any]]:
    """Seconds of the steps of each variant and of its floor, in turns."""
    start, examples = start_model(folder)
    results = []
    for variant in VARIANTS:
        trainer = trainer_of(start, examples, folder / "out", size, prompts, variant)
        other = trainer_of(start, examples, folder / "out", size, prompts, "beam")
        sides = {"step": rl_step(trainer, prompts), "floor": floor_step(other, prompts)}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(WARM_UP + steps):
            for name, step in sides.items():
                begin = time.perf_counter()
                step(number)
                seconds[name].append(time.perf_counter() - begin)
        ratios = [
            one / other for one, other in zip(seconds["step"], seconds["floor"], strict=True)
        ][WARM_UP:]
        result = {
            "variant": variant,
            "step_seconds": median(seconds["step"][WARM_UP:]),
            "floor_seconds": median(seconds["floor"][WARM_UP:]),
            "ratio": median(ratios),
        }
        print(json.dumps(result), file=sys.stderr)
        results.append(result)
    return results


def peak_memory(kind: str, size: int, prompts: int) -> float:
    """MiB that the steps of a kind (`step` or `supervised`) need beyond what is held before."""
    with tempfile.TemporaryDirectory() as name:
        start, examples = start_model(Path(name))
        variant = "beam, divergence and targets"
        trainer = trainer_of(start, examples, Path(name) / "out", size, prompts, variant)
        step = rl_step(trainer, prompts)
        if kind == "supervised":
            step = floor_step(trainer, prompts, search=False)
        before = _status_mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        for number in range(3):
            step(number)
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    """A figure of this process, as Linux reports it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(value) / 1024


def memory_of_child(kind: str, size: int, prompts: int) -> float:
    """`peak_memory` in a process of its own."""
    command = [sys.executable, __file__, "--memory", kind]
    command += ["--size", str(size), "--prompts", str(prompts)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def main() -> None:
    """Print the table, or the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--memory", choices=("step", "supervised"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with quiet():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    size, prompts = arguments.size, arguments.prompts
    if arguments.memory:
        print(peak_memory(arguments.memory, size, prompts))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = time_steps(Path(folder), size, prompts, arguments.steps)
    memory = {kind: memory_of_child(kind, size, prompts) for kind in ("step", "supervised")}
    if arguments.json:
        print(json.dumps({"steps": results, "peak_mib": memory, **environment()}))
        return
    rows = [
        [
            result["variant"],
            *(f"{result[key]:.3f}" for key in ("step_seconds", "floor_seconds")),
            f"{result['ratio']:.2f}",
        ]
        for result in results
    ]
    print(markdown(["step", "seconds", "floor", "ratio"], rows))
    print(f"\npeak memory: {memory['step']:.0f} MiB, supervised {memory['supervised']:.0f} MiB")


if __name__ == "__main__":
    main()
