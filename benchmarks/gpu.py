"""Measure one piece on a GPU, for gpu.sh; on a CPU small sizes show that the piece works.

    python benchmarks/gpu.py PIECE --device cuda
    python benchmarks/gpu.py table WORK

`parity`: the decoder on the device against the CPU, in float32. `decoder`: its seconds against
those of `generate` with a prefix function. `floor`: its seconds against those of the bare forward
passes, and of these against the bytes of the weights over the measured bandwidth. `graphs`: a
forward pass of the beams' tokens as a CUDA graph against the ordinary one. `training:MODEL:STAGE`:
tokens per second of a model of this shape with random weights, and its peak memory against
memory_estimate.py. Pieces print JSON."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from decoder_cases import LEVELS, TEXT, VOCABULARY, catalog, prompts_of, qwen3, trie_and_tokens
from decoder_sides import prefix_function, run_beam, run_generate
from environment import environment
from memory_estimate import MODELS, Shape, estimate
from table import markdown

from sidtool.training.settings import Stage, TrainOptions

WIDTH = 50
COPIED = 1 << 30
"""Bytes that are copied to measure the bandwidth."""


@dataclass(frozen=True)
class Scale:
    """The sizes of the pieces."""

    hidden: int
    layers: int
    items: int
    batches: tuple[int, ...]
    repeats: int
    batch: int
    """examples of a training step"""
    length: int
    """tokens of an example"""
    steps: int
    shape: Shape | None
    """in place of the shapes of MODELS"""


FULL = Scale(512, 8, 1_000_000, (1, 8, 64), 10, 8, 512, 12, None)
TINY = Shape(64, 2, 2, 1, 32, 96, 512)
SMOKE = Scale(64, 1, 2_000, (1, 2), 1, 2, 48, 6, TINY)


def seconds(device: torch.device, repeats: int, *sides: Callable[[], Any]) -> list[float]:
    """Median seconds of each side, in turns after one warm-up round; waits for the device."""
    taken: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for side, times in zip(sides, taken, strict=True):
            start = time.perf_counter()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in taken]


def parity(device: torch.device, scale: Scale) -> dict[str, Any]:
    """The largest difference of scores, and how many SIDs differ, over batches and
    normalizations."""
    torch.backends.cuda.matmul.allow_tf32 = False
    trie, tokens = trie_and_tokens(catalog(scale.items))
    model = qwen3(scale.hidden, scale.layers, VOCABULARY)
    result: dict[str, Any] = {"largest_difference": 0.0, "different_sids": 0, "sids": 0}
    expected: dict[tuple[int, str], Any] = {}
    for target_device in (torch.device("cpu"), device):
        model.to(target_device)
        for batch in scale.batches[:2]:
            for normalize in ("vocabulary", "level", "trie"):
                prompts = prompts_of(batch)
                results = run_beam(model, prompts, WIDTH, trie, tokens, normalize)
                before = expected.setdefault((batch, normalize), results)
                for one, other in zip(before, results, strict=True):
                    scores = {int(leaf): score for leaf, score in zip(*one[:2], strict=True)}
                    common = [leaf for leaf in other.leaves.tolist() if leaf in scores]
                    pairs = zip(other.leaves.tolist(), other.scores.tolist(), strict=True)
                    gaps = [abs(scores[leaf] - score) for leaf, score in pairs if leaf in scores]
                    result["largest_difference"] = max([result["largest_difference"], *gaps])
                    result["different_sids"] += len(other.leaves) - len(common)
                    result["sids"] += len(other.leaves)
    if result["largest_difference"] > 1e-3:
        raise SystemExit(f"scores differ by {result['largest_difference']}")
    return result


def decoder(device: torch.device, scale: Scale) -> dict[str, Any]:
    """Seconds of a batch by `generate` and by the decoder."""
    codes = catalog(scale.items)
    trie, tokens = trie_and_tokens(codes)
    allowed = prefix_function(codes, TEXT)
    model = qwen3(scale.hidden, scale.layers, VOCABULARY).to(device)
    result: dict[str, Any] = {}
    for batch in scale.batches[:2]:
        prompts = prompts_of(batch)
        slow, fast = seconds(
            device,
            scale.repeats,
            partial(run_generate, model, prompts, WIDTH, allowed),
            partial(run_beam, model, prompts, WIDTH, trie, tokens, "level"),
        )
        result |= {f"seconds_batch{batch}": fast, f"speedup_batch{batch}": slow / fast}
    return result


def bare_passes(model: Any, prompts: torch.Tensor) -> None:
    """The prefill, and L - 1 passes of the beams' tokens with a cache."""
    with torch.no_grad():
        cache = model.model(input_ids=prompts, use_cache=True).cache
        tokens = torch.full((len(prompts), WIDTH), 7, device=prompts.device)
        for _ in LEVELS[1:]:
            cache = model.model(input_ids=tokens, cache=cache, use_cache=True).cache


def floor(device: torch.device, scale: Scale) -> dict[str, Any]:
    """The decoder over the bare passes, and these over the time to read the weights once per
    pass."""
    trie, tokens = trie_and_tokens(catalog(scale.items))
    model = qwen3(scale.hidden, scale.layers, VOCABULARY).to(device)
    source = torch.zeros(COPIED // 4 if device.type == "cuda" else 1 << 20, device=device)
    target = torch.empty_like(source)
    (copy,) = seconds(device, scale.repeats, lambda: target.copy_(source))
    bandwidth = 2 * source.nbytes / copy  # read and written
    weights = sum(weight.nbytes for weight in model.model.layers.parameters())
    result = {"bandwidth_gb_per_second": bandwidth / 1e9}
    for batch in scale.batches:
        prompts = prompts_of(batch)
        ids = torch.tensor(prompts, device=device)
        bare, search = seconds(
            device,
            scale.repeats,
            partial(bare_passes, model, ids),
            partial(run_beam, model, prompts, WIDTH, trie, tokens, "level"),
        )
        result |= {
            f"seconds_batch{batch}": search,
            f"over_floor_batch{batch}": search / bare,
            f"floor_over_bytes_batch{batch}": bare / (len(LEVELS) * weights / bandwidth),
        }
    return result


def graphs(device: torch.device, scale: Scale) -> dict[str, Any]:
    """A pass of the beams' tokens as a CUDA graph over the ordinary pass; a CPU has none."""
    if device.type != "cuda":
        return {"speedup": None}
    model = qwen3(scale.hidden, scale.layers, VOCABULARY).to(device)
    tokens = torch.full((1, WIDTH), 7, device=device)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            hidden: torch.Tensor = model.model(input_ids=tokens, use_cache=False)[0]
        return hidden

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        forward()  # allocations before the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    eager, replayed = seconds(device, 5 * scale.repeats, forward, graph.replay)
    return {"seconds_eager": eager, "seconds_graph": replayed, "speedup": eager / replayed}


def training(device: torch.device, scale: Scale, model: str, stage: Stage) -> dict[str, Any]:
    """Tokens per second, and peak memory beside its estimate."""
    from sidtool.training.training import train

    if model not in MODELS:
        raise SystemExit(f"there is no model {model}, only {', '.join(MODELS)}")
    shape = scale.shape or MODELS[model]
    with tempfile.TemporaryDirectory() as folder:
        base, examples, new = prepare(shape, scale, Path(folder))
        summary = train(
            base,
            examples,
            Path(folder) / "tuned",
            options=TrainOptions(stage=stage, softmax_over="vocabulary", batching="padded"),
            sft_fields={
                "max_steps": scale.steps,
                "per_device_train_batch_size": scale.batch,
                "save_strategy": "no",
                "use_cpu": device.type == "cpu",
            },
        )
    tokens = scale.batch * scale.length
    parts = estimate(shape, stage, tokens, new, checkpointing=False)
    return {
        "tokens_per_second": summary.tokens_per_second,
        "peak_gib": summary.peak_cuda_gib,
        "estimated_gib": parts["sum"],
    }


def prepare(shape: Shape, scale: Scale, folder: Path) -> tuple[Path, Path, int]:
    """An extended model of a shape with random weights, examples of `scale.length` tokens, and the
    number of new tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from sidtool.data.items import Items
    from sidtool.data.split.split import Split
    from sidtool.data.split.values import Example, UserSequence
    from sidtool.examples.sft_options import SftOptions
    from sidtool.examples.sft_run import make_sft
    from sidtool.model.extend import ExtendOptions, extend_model
    from sidtool.model.presets import MIN_VOCABULARY, train_tokenizer
    from sidtool.tokenizer.bundle import Bundle
    from sidtool.tokenizer.bundle.item_map import ItemMap
    from sidtool.tokenizer.sid import SidSpace

    rng = np.random.default_rng(0)
    space = SidSpace((256, 256, 256), begin=None, end=None)
    codes = rng.permutation(256)[:200, None].repeat(3, axis=1).astype(np.uint16)
    ids = tuple(f"i{number}" for number in range(len(codes)))
    bundle = Bundle.of(ItemMap.of(space, list(ids), codes, list(ids)), None, "reassign", name="gpu")
    tokenizer = train_tokenizer(ids, MIN_VOCABULARY)
    tokenizer.save_pretrained(folder / "base")
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "base")
    extend_model(str(folder / "base"), bundle, folder / "base+sid", ExtendOptions(init="random"))
    n_items = scale.length // space.levels - 1
    users = tuple(
        UserSequence(f"u{n}", tuple(rng.choice(ids, n_items)), tuple(range(n_items)))
        for n in range(scale.batch * (scale.steps + 1))
    )
    held_out = (Example("u", ("i0",), "i1", 1),)
    split = Split.of("leave-one-out", users, held_out, held_out)
    items = Items(ids, ids, ids, {}, "{title}", "gpu")
    options = SftOptions({"sequence": 1.0}, max_length=scale.length, history_length=n_items - 1)
    examples = folder / "sft" / "train.jsonl"
    make_sft(bundle, items, split, examples, options, tokenizer=tokenizer)
    return folder / "base+sid", examples, len(space.tokens)


PIECES = {"parity": parity, "decoder": decoder, "floor": floor, "graphs": graphs}


def measure(piece: str, device: torch.device) -> dict[str, Any]:
    """The figures of a piece. Raises SystemExit if there is none of the name."""
    scale = FULL if device.type == "cuda" else SMOKE
    if piece.startswith("training:"):
        _, model, stage = piece.split(":")
        return training(device, scale, model, cast(Stage, stage))
    if piece not in PIECES:
        raise SystemExit(f"there is no piece {piece}")
    return PIECES[piece](device, scale)


def table(work: Path) -> str:
    """The figures of all pieces in a work folder."""
    rows = []
    for path in sorted(work.glob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        for name, figure in value["figures"].items():
            shown = f"{figure:.4g}" if isinstance(figure, float) else str(figure)
            rows.append([path.stem, name, shown, value["device"]])
    return markdown(["piece", "figure", "value", "device"], rows)


def main() -> int:
    """Measure a piece, or print the table of a work folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("piece", metavar="PIECE")
    parser.add_argument("work", nargs="?", type=Path, metavar="WORK")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    if args.piece == "table":
        print(table(args.work))
        return 0
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU; --device cpu makes a smoke test")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu, not measured"
    figures = measure(args.piece, device)
    print(json.dumps({"piece": args.piece, "device": name, "figures": figures, **environment()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
