"""Compare the steps of `sidtool train` with those of a bare torch loop: same model, same batches.

    python benchmarks/training_speed.py [--steps 30] [--threads 2] [--json] [CASE ...]

The bare loop packs the same examples, applies the head to labeled positions only, clips, and steps
the same AdamW; it logs and saves nothing. Both make their steps in turns in one process, so that a
busy machine disturbs both alike. Cases: `sid-only` is a model that only sees SIDs (vocabulary 799,
whole histories, 128 examples per step), `trie` the same with the loss over the trie (the bare loop
has the loss of `sid-only`), `large` a model with the vocabulary of a large language model (152,704,
next-item examples with 5 labeled tokens each, 8 examples per step), `smollm2` one with six of
SmolLM2-135M's layers and its vocabulary, in bfloat16, 8 next-item examples per step."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from environment import environment
from table import markdown
from torch.nn.functional import cross_entropy

from sidtool.data.items import Items
from sidtool.data.split.split import Split
from sidtool.data.split.values import Example, UserSequence
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.sft_run import make_sft
from sidtool.model.extend import ExtendOptions, extend_model
from sidtool.model.load import load_model_folder
from sidtool.model.presets import MIN_VOCABULARY, train_tokenizer
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loop import trainer as trainer_module
from sidtool.training.loss.batches import IGNORED, packed_batch
from sidtool.training.settings import SoftmaxOver, TrainOptions
from sidtool.training.training import train

ITEMS = 2_000
WARM_UP = 5
"""Steps that do not count."""


@dataclass(frozen=True)
class Case:
    """A model, its training examples and the batch size."""

    task: str
    softmax_over: SoftmaxOver
    batch: int
    codes: int
    vocabulary: int
    shape: dict[str, Any]
    bf16: bool = False


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
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
CASES = {
    "smollm2": Case("next-item", "vocabulary", 8, 256, 49_152, SMOLLM2, bf16=True),
    "sid-only": Case("sequence", "sid", 128, 180, MIN_VOCABULARY, GPT2),
    "trie": Case("sequence", "trie", 128, 180, MIN_VOCABULARY, GPT2),
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
    """An extended model, and training examples of random histories (one epoch has `steps`
    steps)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rng = np.random.default_rng(0)
    space = SidSpace((case.codes,) * 3)
    if case.task != "next-item":
        space = replace(space, begin=None, end=None)
    keys = rng.choice(space.capacity, size=ITEMS, replace=False)
    codes = np.stack(np.unravel_index(keys, space.sizes), axis=1).astype(np.uint16)
    ids = tuple(f"i{number}" for number in range(ITEMS))
    bundle = Bundle.of(
        ItemMap.of(space, list(ids), codes, list(ids)), None, "reassign", name="speed"
    )
    tokenizer = train_tokenizer(ids, MIN_VOCABULARY)
    settings = {key: value for key, value in case.shape.items() if key != "model_type"}
    shape = AutoConfig.for_model(
        case.shape["model_type"], vocab_size=case.vocabulary, pad_token_id=0, **settings
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape, dtype=torch.float32).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    extend_model(str(folder / "base"), bundle, folder / "base+sid", ExtendOptions(init="random"))
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
    held_out = (Example("u", ("i0",), "i1", 1),)
    items = Items(ids, ids, ids, {}, "{title}", "speed")
    split = Split.of("leave-one-out", users, held_out, held_out)
    options = SftOptions({case.task: 1.0}, max_length=256, history_length=20)
    make_sft(bundle, items, split, folder / "sft" / "train.jsonl", options, tokenizer=tokenizer)
    return folder / "base+sid", folder / "sft" / "train.jsonl"


def bare_step(case: Case, model_dir: Path) -> Callable[[Sequence[Any]], float]:
    """A function that makes one step of the bare loop on a batch and returns the loss."""
    loaded = load_model_folder(model_dir, device="cpu", dtype="float32")
    model = loaded.model.train()
    start = loaded.tokens.start
    head = model.get_output_embeddings().weight
    columns = slice(None)
    if case.softmax_over in ("sid", "trie"):
        columns = slice(start, start + 3 * case.codes)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)

    def step(batch: Sequence[Any]) -> float:
        inputs = packed_batch(batch, pad=0)
        labels = inputs["labels"][:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
            hidden = model.base_model(
                inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False
            )[0]
            labeled = labels != IGNORED
            logits = hidden[:, :-1][labeled] @ head[columns].T
            loss = cross_entropy(logits.float(), labels[labeled] - (columns.start or 0))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        return loss.item()

    return step


def measure(case: Case, steps: int) -> dict[str, float]:
    """Median seconds per step and tokens per second of both, and their ratio."""
    sidtool_seconds: list[float] = []
    bare_seconds: list[float] = []
    tokens: list[int] = []
    batches: list[Sequence[Any]] = []

    def recorded(batch: Sequence[Any], *, pad: int) -> dict[str, torch.Tensor]:
        batches.append(batch)
        return packed_batch(batch, pad=pad)

    with tempfile.TemporaryDirectory() as folder:
        model, examples = prepare(case, Path(folder), steps)
        step = bare_step(case, model)
        started = time.perf_counter()

        def after_step(done: int, total: int) -> None:
            nonlocal started
            sidtool_seconds.append(time.perf_counter() - started)
            batch = batches[done - 1]
            started = time.perf_counter()
            step(batch)
            bare_seconds.append(time.perf_counter() - started)
            tokens.append(sum(len(example.ids) for example in batch))
            started = time.perf_counter()

        setattr(trainer_module, "packed_batch", recorded)  # noqa: B010
        options = TrainOptions(softmax_over=case.softmax_over, batching="packed")
        fields = {
            "max_steps": steps,
            "per_device_train_batch_size": case.batch,
            "save_strategy": "no",
            "bf16": case.bf16,
        }
        out = Path(folder) / "tuned"
        train(model, examples, out, options=options, sft_fields=fields, progress=after_step)
    medians = {"sidtool": median(sidtool_seconds[WARM_UP:]), "bare": median(bare_seconds[WARM_UP:])}
    tokens_per_step = sum(tokens[WARM_UP:]) / (steps - WARM_UP)
    result: dict[str, float] = {"ratio": medians["sidtool"] / medians["bare"]}
    for name, seconds in medians.items():
        result[f"{name}_seconds"] = seconds
        result[f"{name}_tokens_per_second"] = round(tokens_per_step / seconds)
    return result


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.steps <= WARM_UP:
        parser.error(f"--steps must be more than {WARM_UP}, which do not count")
    torch.set_num_threads(args.threads)
    results = {name: measure(CASES[name], args.steps) for name in args.cases or CASES}
    if args.json:
        print(json.dumps(environment() | {"cases": results}))
        return
    print(json.dumps(environment()))
    header = ["case", "sidtool, s", "bare loop, s", "sidtool, tokens/s", "bare, tokens/s", "ratio"]
    rows = []
    for name, result in results.items():
        seconds = [f"{result[f'{side}_seconds']:.3f}" for side in ("sidtool", "bare")]
        rates = [f"{result[f'{side}_tokens_per_second']:,}" for side in ("sidtool", "bare")]
        rows.append([name, *seconds, *rates, f"{result['ratio']:.2f}"])
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
