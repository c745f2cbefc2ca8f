"""SASRec with full cross-entropy, the rival with item ids, on the same split and metric code as
sidtool's models.

    python benchmarks/sasrec.py BUNDLE ROWS -o OUT.json [--seeds 0 1 2] [--dropout 0.5 0.3] [--width
    64]

ROWS are the training rows of make-sft, of which only the files beside are read. Epochs and, with
the first seed, the dropout are chosen by NDCG@10 over all valid users; test is asked once, at the
end. A seed that OUT holds is not run again. (W.-C. Kang, J. McAuley, ICDM 2018; the loss over all
items as in A. Klenitskiy, A. Vasilev, RecSys 2023.) Two simplifications cost nothing here:
sequences are padded on the right, so positions count from the oldest item shown, and attention
weights have no dropout, which would leave the fused kernel."""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from catalog_examples import CatalogExamples, Part, read_catalog_examples
from environment import environment
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy, relu, scaled_dot_product_attention

LENGTH, BATCH, MOST_EPOCHS, TOP = 50, 256, 300, 50
Sequences = list[NDArray[np.int64]]


class Block(nn.Module):
    """Causal self-attention and a feed-forward net, each normalized first and added."""

    def __init__(self, width: int, dropout: float, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.dropout = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(users, items, width) -> the same."""
        users, items, width = x.shape
        qkv = (
            self.qkv(self.norms[0](x)).view(users, items, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        seen = scaled_dot_product_attention(
            *qkv.unbind(0), is_causal=True
        )  # (users, heads, items, width / heads)
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(users, items, width)))
        return x + self.dropout(self.down(self.dropout(relu(self.up(self.norms[1](x))))))


class SasRec(nn.Module):
    """Items and learned positions in; what comes next is the item whose embedding lies nearest
    (tied weights)."""

    def __init__(self, items: int, width: int, dropout: float, layers: int = 2) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(items, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(layers)))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        for embedding in (self.items, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(users, items) -> (users, items, width); padding on the right, where no item looks."""
        x = self.items(ids) * self.items.embedding_dim**0.5 + self.places.weight[: ids.shape[1]]
        return self.norm(self.blocks(self.dropout(x)))


def padded(sequences: Sequences) -> torch.Tensor:
    """The newest LENGTH items of each, (n, longest) int64, padded with item 0 on the right."""
    cut = [torch.from_numpy(sequence[-LENGTH:]) for sequence in sequences]
    return nn.utils.rnn.pad_sequence(cut, batch_first=True)


def batches(train: Sequences, rng: np.random.Generator) -> list[Sequences]:
    """All users in random order, then by length within twenty batches, so that little is padding."""
    order, size = rng.permutation(len(train)), 20 * BATCH
    chunks = [
        sorted(order[at : at + size], key=lambda user: len(train[user]))
        for at in range(0, len(order), size)
    ]
    found = [
        [train[user] for user in chunk[at : at + BATCH]]
        for chunk in chunks
        for at in range(0, len(chunk), BATCH)
    ]
    return [found[place] for place in rng.permutation(len(found))]


def train_epoch(
    model: SasRec, adam: torch.optim.Adam, train: Sequences, rng: np.random.Generator
) -> float:
    """One pass, loss over the whole catalog at every item but the first; the mean loss."""
    model.train()
    total, count = 0.0, 0
    for batch in batches(train, rng):
        inputs, targets = (
            padded([s[-LENGTH - 1 : -1] for s in batch]),
            padded([s[-LENGTH - 1 :][1:] for s in batch]),
        )
        real = (
            torch.arange(inputs.shape[1])
            < torch.tensor([min(len(s) - 1, LENGTH) for s in batch])[:, None]
        )
        loss = cross_entropy(model(inputs)[real] @ model.items.weight.T, targets[real])
        adam.zero_grad()
        loss.backward()
        adam.step()
        total, count = total + loss.item() * int(real.sum()), count + int(real.sum())
    return total / count


@torch.no_grad()
def rank(model: SasRec, asked: Part, k: int, *, exclude_seen: bool) -> NDArray[np.int64]:
    """(n, k) item numbers, best first; with `exclude_seen` without what the history holds."""
    model.eval()
    ranked = np.zeros((len(asked.histories), k), dtype=np.int64)
    for at in range(0, len(ranked), BATCH):
        histories = asked.histories[at : at + BATCH]
        last = torch.tensor([max(min(len(history), LENGTH), 1) - 1 for history in histories])
        hidden = model(padded(histories))[torch.arange(len(histories)), last]
        scores = hidden @ model.items.weight.T
        if exclude_seen:
            for row, history in zip(scores, histories, strict=True):
                row[torch.from_numpy(history)] = -torch.inf
        ranked[at : at + BATCH] = scores.topk(k).indices.numpy()
    return ranked


def fit(
    questions: CatalogExamples, seed: int, dropout: float, args: argparse.Namespace
) -> tuple[SasRec, dict[str, Any]]:
    """Train until valid has not grown for `patience` validations; the best epoch's model, and how
    it went."""
    torch.manual_seed(seed)
    rng, start, best = np.random.default_rng(seed), time.monotonic(), -1.0
    train = [sequence for sequence in questions.train if len(sequence) > 1]
    model = SasRec(len(questions.catalog), args.width, dropout)
    adam = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    kept, facts, curve = (
        copy.deepcopy(model.state_dict()),
        dict[str, Any](),
        list[dict[str, float]](),
    )
    for epoch in range(1, args.epochs + 1):
        loss = train_epoch(model, adam, train, rng)
        if epoch % args.every:
            continue
        found = questions.valid.score(
            rank(model, questions.valid, 10, exclude_seen=not args.keep_seen)
        )
        seconds = round(time.monotonic() - start)
        curve.append(
            {"epoch": epoch, "loss": loss, "ndcg@10": found["ndcg@10"], "hr@10": found["hr@10"]}
        )
        print(
            f"seed {seed} dropout {dropout} {seconds} s {json.dumps(curve[-1])}",
            file=sys.stderr,
            flush=True,
        )
        if found["ndcg@10"] > best:
            best, kept = found["ndcg@10"], copy.deepcopy(model.state_dict())
            facts = {"epoch": epoch, "valid": found}
        since = (epoch - facts["epoch"]) // args.every
        if since >= args.patience or seconds > 60 * args.minutes:
            break
    model.load_state_dict(kept)
    facts |= {
        "seed": seed,
        "dropout": dropout,
        "seconds": round(time.monotonic() - start),
        "curve": curve,
    }
    return model, facts


def main() -> None:
    """Run what OUT lacks, and print the test metrics of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.5])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=MOST_EPOCHS)
    parser.add_argument("--every", type=int, default=2, help="epochs between two validations")
    parser.add_argument("--patience", type=int, default=10, help="validations without a better one")
    parser.add_argument(
        "--keep-seen", action="store_true", help="recommend what a history holds, too"
    )
    parser.add_argument("--minutes", type=float, default=90.0, help="most minutes of one training")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    questions = read_catalog_examples(args.bundle, args.rows)
    named = ("width", "learning_rate", "epochs", "every", "patience", "minutes", "keep_seen")
    settings = {name: getattr(args, name) for name in named} | {"length": LENGTH, "batch": BATCH}
    result: dict[str, Any] = (
        json.loads(args.out.read_text())
        if args.out.exists()
        else {"settings": settings, "seeds": []}
    )
    if other := {
        name: value for name, value in result["settings"].items() if settings.get(name) != value
    }:
        parser.error(f"{args.out} holds seeds of other settings: {other}")
    done = {run["seed"] for run in result["seeds"]}
    for seed in [seed for seed in args.seeds if seed not in done]:
        rates = [result["seeds"][0]["dropout"]] if result["seeds"] else args.dropout
        tried = [fit(questions, seed, rate, args) for rate in rates]
        model, facts = max(tried, key=lambda found: found[1]["valid"]["ndcg@10"])
        others = {str(other["dropout"]): other["valid"] for _, other in tried}
        metrics = questions.test.score(
            rank(model, questions.test, TOP, exclude_seen=not args.keep_seen)
        )
        result["seeds"].append(facts | {"tried": others, "metrics": metrics})
        args.out.write_text(json.dumps(result | environment(), indent=1) + "\n", encoding="utf-8")
    for run in result["seeds"]:
        means = " ".join(
            f"{name} {run['metrics'][name]:.4f}" for name in ("hr@5", "hr@10", "ndcg@5", "ndcg@10")
        )
        print(
            f"SASRec-CE, seed {run['seed']}, test: {means} (epoch {run['epoch']}, "
            f"{run['seconds']} s)"
        )


if __name__ == "__main__":
    main()
