"""`sidtool train` against a bare torch loop: the same model, the same batches, step by step in one
process.

    python benchmarks/training_speed.py [--steps 30] [--threads 2] [--json] [CASE ...]

The bare loop lays out the same rows, applies the head to labelled positions alone, clips, and steps
the same AdamW; it logs and saves nothing. After each step of `sidtool train` it makes its own, so
that a busy machine disturbs both. Cases: `sid-only` is a model that knows SIDs alone (vocabulary
799, whole histories, 128 rows a step), `large` one whose vocabulary is that of a large language
model (152,704, next-item rows, 5 labelled tokens each, 8 rows a step)."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from environment import environment
from torch.nn.functional import cross_entropy

from sidtool.bundle import Bundle, ItemMap
from sidtool.data.items import Items
from sidtool.data.splits import Example, Split, UserSequence
from sidtool.model.extend import extend_model
from sidtool.model.load import load_model_folder
from sidtool.model.scratch import MIN_VOCABULARY, train_tokenizer
from sidtool.sft.make_sft import make_sft
from sidtool.sft.training_examples import SftOptions
from sidtool.sid import SidSpace
from sidtool.train import trainer as trainer_module
from sidtool.train.dataset import IGNORED, PackedCollator
from sidtool.train.run import train
from sidtool.train.settings import TrainOptions

ITEMS, WARM_UP = 2_000, 5


@dataclass(frozen=True)
class Case:
    """A model, rows and batches. `rows` of the embedding: those of the tokens there are, or more."""

    task: str
    softmax_over: str
    batch: int
    codes: int
    rows: int
    shape: dict[str, Any]


GPT2 = {
    "model_type": "gpt2",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "n_layer": 3,
    "n_embd": 128,
    "n_head": 4,
    "attn_pdrop": 0.0,
    "n_positions": 512,
}
QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "head_dim": 32,
}
CASES = {
    "sid-only": Case("sequence", "sid", 128, 180, MIN_VOCABULARY, GPT2),
    "large": Case(
        "next-item",
        "vocabulary",
        8,
        256,
        152_704,
        QWEN3 | {"num_attention_heads": 2, "num_key_value_heads": 2},
    ),
}


def prepare(case: Case, folder: Path, steps: int) -> tuple[Path, Path]:
    """An extended model and training rows of random histories, enough for an epoch of `steps`
    steps."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rng = np.random.default_rng(0)
    marks = {} if case.task == "next-item" else {"begin": None, "end": None}
    space = SidSpace((case.codes,) * 3, **marks)
    keys = rng.choice(space.capacity, size=ITEMS, replace=False)
    codes = np.stack(np.unravel_index(keys, space.sizes), axis=1).astype(np.uint16)
    ids = tuple(f"i{number}" for number in range(ITEMS))
    bundle = Bundle.of(
        ItemMap.of(space, list(ids), codes, list(ids)), None, "reassign", name="speed"
    )
    tokenizer = train_tokenizer(ids, MIN_VOCABULARY)
    own = {key: value for key, value in case.shape.items() if key != "model_type"}
    shape = AutoConfig.for_model(
        case.shape["model_type"], vocab_size=case.rows, pad_token_id=0, **own
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape, dtype=torch.float32).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    extend_model(str(folder / "base"), bundle, folder / "base+sid", init="random")
    # lengths as in Amazon's five-core sets: most users have few events
    lengths = np.minimum(3 + rng.geometric(0.2, case.batch * (steps + 1)), 20)
    if case.task == "next-item":
        lengths = np.full(
            case.batch * (steps + 1) // 18 + 1, 20
        )  # a row for each event but the first
    histories = [tuple(f"i{item}" for item in rng.integers(0, ITEMS, length)) for length in lengths]
    users = tuple(
        UserSequence(f"u{n}", items, tuple(range(len(items)))) for n, items in enumerate(histories)
    )
    asked = (Example("nobody", ("i0",), "i1", 1),)
    items = Items(ids, ids, ids, {}, "{title}", "speed")
    split = Split("leave-one-out", users, asked, asked)
    options = SftOptions({case.task: 1.0}, max_length=256, history_length=20)
    make_sft(bundle, items, split, folder / "sft" / "train.jsonl", options, tokenizer=tokenizer)
    return folder / "base+sid", folder / "sft" / "train.jsonl"


def bare_step(case: Case, model_dir: Path) -> Callable[[Sequence[Any]], float]:
    """A function that makes one step of the bare loop on a batch of rows; it returns the loss."""
    served = load_model_folder(model_dir, device="cpu", dtype="float32")
    model, start = served.model.train(), served.tokens.start
    head, columns = model.get_output_embeddings().weight, slice(None)
    if case.softmax_over == "sid":
        columns = slice(start, start + 3 * case.codes)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    collate = PackedCollator(0)

    def step(batch: Sequence[Any]) -> float:
        inputs = collate(batch)
        labels = inputs["labels"][:, 1:]
        hidden = model.base_model(
            inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False
        )[0]
        asked = labels != IGNORED
        logits = hidden[:, :-1][asked] @ head[columns].T
        loss = cross_entropy(logits, labels[asked] - (columns.start or 0))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        return loss.item()

    return step


def measure(case: Case, steps: int) -> dict[str, float]:
    """Median seconds a step and tokens a second of both, and the ratio."""
    ours, bare, tokens = [], [], []
    seen: list[Sequence[Any]] = []

    class Recorded(PackedCollator):
        def __call__(self, batch: Sequence[Any]) -> dict[str, torch.Tensor]:
            seen.append(batch)
            return super().__call__(batch)

    with tempfile.TemporaryDirectory() as name:
        model, rows = prepare(case, Path(name), steps)
        step, clock = bare_step(case, model), [time.perf_counter()]

        def after(done: int, total: int) -> None:
            ours.append(time.perf_counter() - clock[0])
            batch = seen[done - 1]
            start = time.perf_counter()
            step(batch)
            bare.append(time.perf_counter() - start)
            tokens.append(sum(len(ids) for ids, _ in batch))
            clock[0] = time.perf_counter()

        trainer_module.PackedCollator = Recorded  # type: ignore[misc]
        # type: ignore[arg-type]
        options = TrainOptions(softmax_over=case.softmax_over, batching="packed")
        fields = {
            "max_steps": steps,
            "per_device_train_batch_size": case.batch,
            "save_strategy": "no",
        }
        train(model, rows, Path(name) / "tuned", options=options, fields=fields, progress=after)
    ours, bare, size = ours[WARM_UP:], bare[WARM_UP:], sum(tokens[WARM_UP:]) / (steps - WARM_UP)
    seconds = {"sidtool": median(ours), "bare": median(bare)}
    rates = {f"{name}_tokens_per_second": round(size / value) for name, value in seconds.items()}
    return (
        {f"{name}_seconds": value for name, value in seconds.items()}
        | rates
        | {"ratio": median(ours) / median(bare)}
    )


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {name: measure(CASES[name], args.steps) for name in args.cases or CASES}
    if args.json:
        print(json.dumps(environment() | {"cases": found}))
        return
    print(json.dumps(environment()))
    for name, values in found.items():
        print(
            f"{name}: sidtool {values['sidtool_seconds']:.3f} s a step, bare "
            f"{values['bare_seconds']:.3f} s",
            end="; ",
        )
        print(
            f"{values['sidtool_tokens_per_second']:,} and {values['bare_tokens_per_second']:,} "
            "tokens/s",
            end="; ",
        )
        print(f"ratio {values['ratio']:.2f}")


if __name__ == "__main__":
    main()
