"""Train SASRec with full cross-entropy, a model with item ids, on the same split and with the same
metrics as sidtool's models.

    python benchmarks/sasrec.py BUNDLE SPLIT -o OUT.json [--seeds 0 1 2] [--dropout 0.5 0.3]

SPLIT is a folder that `sidtool split` wrote. The epoch and, with the first seed, the dropout are
selected by NDCG@10 over all validation users; test is read once, at the end. A seed that OUT holds
is not run again. (W.-C. Kang, J. McAuley, ICDM 2018; the loss over all items as in A. Klenitskiy,
A. Vasilev, RecSys 2023.) Two simplifications: sequences are padded on the right, so positions count
from the oldest item, and attention weights have no dropout, which the fused kernel lacks."""

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from catalog_examples import CatalogExamples, Part, read_catalog_examples
from environment import environment
from numpy.typing import NDArray
from table import METRICS, markdown
from torch import nn
from torch.nn.functional import cross_entropy, relu, scaled_dot_product_attention

LENGTH = 50
"""Items of a history."""
BATCH = 256
MOST_EPOCHS = 300
TOP = 50
Sequences = Sequence[NDArray[np.int64]]


class Block(nn.Module):
    """Causal self-attention and a feed-forward net, each normalized first and added."""

    def __init__(self, width: int, dropout: float, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(users, items, width) -> the same."""
        users, items, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(users, items, 3, self.heads, -1)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # (users, heads, items, width / heads)
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        attended = attended.transpose(1, 2).reshape(users, items, width)
        x = x + self.dropout(self.out(attended))
        inner = self.dropout(relu(self.up(self.norms[1](x))))
        return x + self.dropout(self.down(inner))


class SasRec(nn.Module):
    """Item and position embeddings, causal blocks, and an output tied to the item embeddings."""

    def __init__(self, items: int, width: int, dropout: float, layers: int = 2) -> None:
        super().__init__()
        self.items = nn.Embedding(items, width)
        self.positions = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(users, items) -> (users, items, width); padding on the right, which causal attention
        ignores."""
        x = self.items(ids) * self.items.embedding_dim**0.5 + self.positions.weight[: ids.shape[1]]
        return self.norm(self.blocks(self.dropout(x)))


def padded(sequences: Sequences) -> torch.Tensor:
    """The newest LENGTH items of each, (n, longest) int64, padded with item 0 on the right; one
    column at least."""
    newest = [torch.from_numpy(sequence[-LENGTH:]) for sequence in sequences]
    items = nn.utils.rnn.pad_sequence(newest, batch_first=True)
    return nn.functional.pad(items, (0, int(items.shape[1] == 0)))


def batches(train: Sequences, rng: np.random.Generator) -> list[Sequences]:
    """All users in random order; within twenty batches they are sorted by length, so that little is
    padding."""
    order = rng.permutation(len(train))
    chunk_size = 20 * BATCH
    result = []
    for chunk_start in range(0, len(order), chunk_size):
        drawn = order[chunk_start : chunk_start + chunk_size]
        chunk = sorted(drawn, key=lambda user: len(train[user]))
        for start in range(0, len(chunk), BATCH):
            result.append([train[user] for user in chunk[start : start + BATCH]])
    return [result[index] for index in rng.permutation(len(result))]


def train_epoch(
    model: SasRec, adam: torch.optim.Adam, train: Sequences, rng: np.random.Generator
) -> float:
    """One pass, with a loss over the whole catalog at every item but the first; the mean loss."""
    model.train()
    total = 0.0
    count = 0
    for batch in batches(train, rng):
        newest = [sequence[-LENGTH - 1 :] for sequence in batch]
        inputs = padded([sequence[:-1] for sequence in newest])
        targets = padded([sequence[1:] for sequence in newest])
        lengths = torch.tensor([len(sequence) - 1 for sequence in newest])
        real = torch.arange(inputs.shape[1]) < lengths[:, None]
        loss = cross_entropy(model(inputs)[real] @ model.items.weight.T, targets[real])
        adam.zero_grad()
        loss.backward()
        adam.step()
        n = int(real.sum())
        total += loss.item() * n
        count += n
    return total / count


@torch.no_grad()
def rank(model: SasRec, part: Part, k: int, *, exclude_seen: bool) -> NDArray[np.int64]:
    """(n, k) item numbers, best first; with `exclude_seen` without the history's items."""
    model.eval()
    ranked = np.zeros((len(part.histories), k), dtype=np.int64)
    for at in range(0, len(ranked), BATCH):
        histories = part.histories[at : at + BATCH]
        last = torch.tensor([max(min(len(history), LENGTH), 1) - 1 for history in histories])
        hidden = model(padded(histories))[torch.arange(len(histories)), last]
        scores = hidden @ model.items.weight.T
        if exclude_seen:
            for row, history in zip(scores, histories, strict=True):
                row[torch.from_numpy(history)] = -torch.inf
        ranked[at : at + BATCH] = scores.topk(k).indices.numpy()
    return ranked


def fit(
    examples: CatalogExamples, seed: int, dropout: float, args: argparse.Namespace
) -> tuple[SasRec, dict[str, Any]]:
    """Train until `patience` validations bring nothing better; the best epoch's model and the
    record of the training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    started = time.monotonic()
    train = [
        sequence.astype(np.int64) for sequence in examples.catalog.sequences if len(sequence) > 1
    ]
    model = SasRec(len(examples.catalog), args.width, dropout)
    adam = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    best: dict[str, Any] = {"epoch": 0, "valid": {"ndcg@10": -1.0}}
    best_weights = copy.deepcopy(model.state_dict())
    curve: list[dict[str, float]] = []
    for epoch in range(1, args.epochs + 1):
        loss = train_epoch(model, adam, train, rng)
        if epoch % args.every:
            continue
        ranked = rank(model, examples.valid, 10, exclude_seen=not args.keep_seen)
        metrics = examples.valid.score(ranked)
        seconds = round(time.monotonic() - started)
        point = {"ndcg@10": metrics["ndcg@10"], "hr@10": metrics["hr@10"]}
        curve.append({"epoch": epoch, "loss": loss, **point})
        progress = f"seed {seed} dropout {dropout} {seconds} s {json.dumps(curve[-1])}"
        print(progress, file=sys.stderr, flush=True)
        if metrics["ndcg@10"] > best["valid"]["ndcg@10"]:
            best = {"epoch": epoch, "valid": metrics}
            best_weights = copy.deepcopy(model.state_dict())
        without_gain = (epoch - best["epoch"]) // args.every
        if without_gain >= args.patience or seconds > 60 * args.minutes:
            break
    model.load_state_dict(best_weights)
    seconds = round(time.monotonic() - started)
    return model, {**best, "seed": seed, "dropout": dropout, "seconds": seconds, "curve": curve}


def main() -> None:
    """Train the seeds that OUT lacks, and print the test metrics of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.5])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=MOST_EPOCHS)
    parser.add_argument("--every", type=int, default=2, help="epochs between two validations")
    parser.add_argument("--patience", type=int, default=10, help="validations without a gain")
    parser.add_argument("--keep-seen", action="store_true", help="recommend seen items, too")
    parser.add_argument("--minutes", type=float, default=90.0, help="at most, per training")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    examples = read_catalog_examples(args.bundle, args.split)
    names = ("width", "learning_rate", "epochs", "every", "patience", "minutes", "keep_seen")
    settings = {name: getattr(args, name) for name in names} | {"length": LENGTH, "batch": BATCH}
    result: dict[str, Any] = {"settings": settings, "seeds": []}
    if args.out.exists():
        result = json.loads(args.out.read_text())
    if result["settings"] != settings:
        parser.error(f"{args.out} holds other settings, {result['settings']}: use another file")
    done = {run["seed"] for run in result["seeds"]}
    for seed in args.seeds:
        if seed in done:
            continue
        rates = [result["seeds"][0]["dropout"]] if result["seeds"] else args.dropout
        trained = [fit(examples, seed, rate, args) for rate in rates]
        model, record = max(trained, key=lambda fitted: fitted[1]["valid"]["ndcg@10"])
        record["by_dropout"] = {str(other["dropout"]): other["valid"] for _, other in trained}
        ranked = rank(model, examples.test, TOP, exclude_seen=not args.keep_seen)
        record["metrics"] = examples.test.score(ranked)
        result["seeds"].append(record)
        args.out.write_text(json.dumps(result | environment(), indent=1) + "\n", encoding="utf-8")
    rows = []
    for run in result["seeds"]:
        values = [f"{run['metrics'][name]:.4f}" for name in METRICS]
        rows.append([run["seed"], *values, run["epoch"], run["seconds"]])
    print(markdown(["SASRec, seed", *METRICS.values(), "epoch", "seconds"], rows))


if __name__ == "__main__":
    main()
