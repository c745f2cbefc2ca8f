"""What a model learns from a memory as its teacher, alone and served with that memory.

    python benchmarks/memory_teacher.py WORK -o FILE.json --name NAME [--seeds 0,1,2]
        [--weight 0.5] [--power 1] [--seen]

WORK is a folder that `recipe.py --teachers ""` filled: its models are compared on validation users
with models of the same seeds, examples and settings that learn from WORK/memory.zarr, too. At each
code, the distribution of the memory over the items of the prefix has this weight in the loss, as
that of a teacher has. Pairs of items that the example's own user contributed are taken out of the
memory first: they contain the answer. A reversed example has the memory that looks back. The
examples are sequences of SIDs alone that are not shuffled."""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import torch
from changed_training import compare, comparison_parser, store, train_with
from numpy.typing import NDArray
from scipy import sparse

from sidtool.examples import TokenizedExample
from sidtool.memory.memory import Memory
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search import Part, token_columns, trie_arrays
from sidtool.tokenizer.sid import ItemRows, Leaves
from sidtool.training.loop.trainer import CausalTrainer
from sidtool.training.loss.augment import AugmentedExamples
from sidtool.training.loss.loss import Loss

SMALLEST = 1e-6
"""Below it, what is left of a score may be the rounding of stored similarities alone."""


class NotedExamples:
    """Augmented examples; notes which of them are reversed."""

    def __init__(self, examples: AugmentedExamples, tokens: SidTokens) -> None:
        self.examples, self.tokens = examples, tokens
        self.originals: Any = examples._examples
        self.reversed: dict[bytes, bool] = {}
        """By the ids of an example that was read"""

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> TokenizedExample:
        varied = self.examples[number]
        rest = iter(self.sids(self.originals[number]))
        in_order = all(sid in rest for sid in self.sids(varied))  # each behind the one before
        self.reversed[varied.ids.astype(np.int64).tobytes()] = not in_order
        return varied

    def sids(self, example: TokenizedExample) -> list[tuple[int, ...]]:
        """The token ids of each item."""
        starts = np.flatnonzero(self.tokens.is_code(example.ids, 0))
        places = starts[:, None] + np.arange(self.tokens.space.levels)
        return [tuple(sid) for sid in example.ids[places].tolist()]


class MemoryTeacher:
    """A memory's distribution over the codes that follow a prefix, in place of a model's logits."""

    packs = True

    def __init__(self, memory: Memory, loss: Loss, power: float, is_reversed: Mapping[bytes, bool]):
        trie = loss.trie
        assert trie is not None
        self.settings, self.power, self.is_reversed = memory.manifest.settings, power, is_reversed
        self.tokens, self.columns = loss.tokens, token_columns(loss.tokens, "cpu")
        self.arrays = trie_arrays(trie, "cpu")
        rows = ItemRows(np.arange(memory.manifest.items))
        leaves = trie.leaves(trie.positions_of(rows))
        shape = (len(rows), trie.n_leaves)
        of_leaf = sparse.csr_matrix((np.ones(len(rows)), (rows, leaves)), shape=shape)
        similarity = of_leaf.T @ memory.neighbors.to_scipy() @ of_leaf
        shared = np.bincount(leaves, minlength=trie.n_leaves)
        similarity = (sparse.diags(1 / shared) @ similarity).tocsr()
        self.similarity = {False: similarity, True: similarity.T.tocsr()}
        self.events = of_leaf.T @ memory.events.astype(np.float64)
        every_leaf = Leaves(np.arange(trie.n_leaves))
        self.codes = trie.leaf_codes(every_leaf).astype(np.int64)
        self.of_code = []
        """For each level the (leaves, columns) matrix of which code each leaf has"""
        for level, columns in enumerate(self.columns.levels):
            places = columns.places(torch.from_numpy(self.codes[:, level])).numpy()
            entries = (np.ones(len(places)), (np.arange(len(places)), places))
            width = self.tokens.space.sizes[level]
            self.of_code.append(sparse.csr_matrix(entries, shape=(len(places), width)))

    def blocks(
        self, inputs: Mapping[str, torch.Tensor], parts: Sequence[Part]
    ) -> list[list[torch.Tensor]]:
        """The logits of each level, (n, columns), for targets at these places of a packed batch."""
        ids, positions = (inputs[name].numpy().ravel() for name in ("input_ids", "position_ids"))
        levels = self.tokens.space.levels
        starts = np.flatnonzero(self.tokens.is_code(ids, 0))
        sids = torch.from_numpy(ids[starts[:, None] + np.arange(levels)])
        found, exist = self.arrays.descend(self.columns.codes(sids))
        assert exist.all()
        leaves = found.numpy()
        # the items of which each level has targets: a sequence's first code is none
        of_levels = [
            np.searchsorted(starts, places.numpy() + 1 - level)
            for level, (places, _) in enumerate(parts)
        ]
        targets = of_levels[-1]
        bounds = np.append(np.flatnonzero(positions == 0), len(ids))
        scores = []
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            first, stop = np.searchsorted(starts, (begin, end))
            asked = targets[(targets >= first) & (targets < stop)] - first
            if len(asked):
                backward = self.is_reversed[ids[begin:end].tobytes()]
                scores.append(self.scores(leaves[first:stop], asked, backward))
        raised = sparse.vstack(scores, format="csr")
        raised.data **= self.power
        rows = [np.searchsorted(targets, items) for items in of_levels]
        return [
            [
                self.logits(raised[rows[level]], leaves[of_levels[level]], level)
                for level in range(levels)
            ]
        ]

    def scores(self, items: NDArray[np.int64], asked: NDArray[np.int64], backward: bool) -> Any:
        """(n, leaves) CSR: the memory's scores before some of the items of an example, without what
        the example contributed to them."""
        ages = asked[:, None] - 1 - np.arange(len(items))
        weights = np.where(ages < 0, 0.0, self.settings.recency ** np.maximum(ages, 0.0))
        unique, places = np.unique(items, return_inverse=True)
        is_item = (places[:, None] == np.arange(len(unique))).astype(np.float64)
        weights = weights @ is_item  # (n, unique)
        similarity: Any = self.similarity[backward][unique]
        between = similarity[:, unique].toarray()
        own = np.minimum(self.own(unique, is_item), between)
        shape = (len(unique), len(self.codes))
        entries = own.ravel(), (np.repeat(np.arange(len(own)), len(own)), np.tile(unique, len(own)))
        scores = sparse.csr_matrix(weights) @ (similarity - sparse.csr_matrix(entries, shape=shape))
        scores.data[scores.data < SMALLEST] = 0
        scores.eliminate_zeros()
        return scores

    def own(self, unique: NDArray[np.int64], is_item: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, n): what an example contributed to the similarities of its n distinct leaves;
        `is_item` (items, n) says which of them each item is."""
        numbers = np.arange(len(is_item))
        gaps = np.abs(numbers[:, None] - numbers)
        counts = np.where(gaps == 0, 0.0, self.settings.distance ** np.maximum(gaps - 1.0, 0))
        counts[np.tril_indices_from(counts)] *= self.settings.reverse
        products = np.outer(self.events[unique], self.events[unique])
        total = products**self.settings.normalization + self.settings.shrinkage
        own: NDArray[np.float64] = is_item.T @ counts @ is_item / total
        np.fill_diagonal(own, 0)
        return own

    def logits(self, scores: Any, answers: NDArray[np.int64], level: int) -> torch.Tensor:
        """(n, columns): logarithms of the sum of the scores behind each code that follows the
        answers' prefixes; the answer's code alone has any where the memory has no item there."""
        rows = np.repeat(np.arange(len(answers)), np.diff(scores.indptr))
        prefixes = self.codes[answers[rows], :level]
        inside = scores.copy()
        inside.data *= (self.codes[scores.indices, :level] == prefixes).all(1)
        sums = (inside @ self.of_code[level]).toarray()
        none = sums.sum(1) == 0
        sums[none] = self.of_code[level][answers[none]].toarray()
        return torch.from_numpy(np.log(sums + 1e-30)).float()


class TaughtTrainer(CausalTrainer):
    """Trains with a memory as the only teacher, in one process."""

    def __init__(self, *, memory: Memory, power: float, **settings: Any) -> None:
        loss = settings["loss"]
        examples = NotedExamples(settings.pop("examples"), loss.tokens)
        teacher = MemoryTeacher(memory, loss, power, examples.reversed)
        super().__init__(**{**settings, "examples": examples, "teachers": teacher})


def trained(args: Namespace, seed: int) -> Path:
    """The model of a seed with the memory as teacher."""
    out = Path(args.work) / f"memory-teacher-{args.weight}-{args.power}" / f"seed-{seed}" / "model"
    memory = Memory.open_verified(args.work / "memory.zarr")
    trainer = partial(TaughtTrainer, memory=memory, power=args.power)
    return train_with(trainer, args.work, seed, out, [f"distill_weight={args.weight}"])


def served(args: Namespace, model: Path) -> Path:
    """A copy of a model with the memory, tuned on validation users."""
    out = model.with_name("model+memory")
    if not out.exists():
        words = ("tune-memory", model, args.work / "split", args.work / "memory.zarr", "-o", out)
        run([sys.executable, "-m", "sidtool", *words, seen_option(args)], check=True)
    return out


def seen_option(args: Namespace) -> str:
    """The option of the commands that recommend."""
    return "--no-exclude-seen" if args.seen else "--exclude-seen"


def served_metrics(args: Namespace, seed: int) -> dict[str, Any]:
    """The validation metrics of a seed's model with the memory, by the parts of what is served, and
    the paired difference from the recipe's model with the memory."""
    taught = served(args, trained(args, seed))
    of_recipe = served(args, args.work / f"seed-{seed}" / "model")
    words = ("evaluate", taught, args.work / "split", "--on", "valid", "--against", of_recipe)
    command = [sys.executable, "-m", "sidtool", *words, seen_option(args), "--json"]
    found = run(command, check=True, capture_output=True, text=True).stdout
    evaluation: dict[str, Any] = json.loads(found)
    return {name: evaluation[name] for name in ("metrics", "baselines", "differences")}


def main() -> None:
    """Measure the memory as teacher."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--weight", type=float, default=0.5)
    parser.add_argument("--power", type=float, default=1.0)
    args = parser.parse_args()
    change = "memory as teacher"
    result = compare(args, trained, change)
    result["served"] = [served_metrics(args, seed) for seed in args.seeds]
    store(args, result, change)
    for of_seed in result["served"]:
        print({name: values["ndcg@10"] for name, values in of_seed["differences"].items()})


if __name__ == "__main__":
    main()
