"""One student of two teachers with different codebooks, on validation users.

    python benchmarks/student.py WORK OTHER -o FILE.json --name NAME [--seeds 0,1,2] [--weight 0.8]
        [--beams 20] [--seen] [--served]

WORK and OTHER are folders that `recipe.py --teachers ""` filled from the same data, such as OTHER
with `--no-cooccurrence`. The models of a seed in WORK and in OTHER each recommend items before
every training event but a user's first. The mean of the two distributions over items is the
teacher: the student, which has the codebook of WORK, learns code by code the sum of the items
behind each code, as from a memory (`train --teacher`). Events are recognized by their item and the
two before it, so an example whose items are reversed or left out there learns its targets alone.
The student is compared with the model of WORK that has its seed, examples and settings; with
`--served` each is also served with WORK/memory.zarr, tuned on the same users."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from changed_training import compare, compare_served, comparison_parser, store, train_recipe
from numpy.typing import NDArray
from scipy import sparse

from sidtool.data.split import Example, Split, open_split
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.memory import Memory
from sidtool.model import load_model_folder
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation import WINDOW, QuerySession, in_windows
from sidtool.registry import open_memory
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import ItemRows, SidPositions
from sidtool.training import trainer_setup
from sidtool.training.loss.loss import Teachers
from sidtool.training.loss.memory_teacher import MemoryTeacher

Context = tuple[int, int, int]
"""The leaves of an item and of the two before it, the oldest first; -1 where there is none."""


class ItemTeacher(MemoryTeacher):
    """Distributions over items before known events, in place of a memory's."""

    def __init__(
        self,
        memory: Memory,
        tokens: SidTokens,
        trie: Trie,
        distributions: Any,
        row_of: Mapping[Context, int],
    ) -> None:
        super().__init__(memory, tokens, trie)
        nothing = sparse.csr_matrix((1, distributions.shape[1]))
        self.distributions = sparse.vstack([distributions, nothing], format="csr")
        self.row_of = row_of

    def _scores(self, items: NDArray[np.int64], targets: NDArray[np.int64], backward: bool) -> Any:
        """(n, leaves) CSR: the distribution before each target; nothing where none is stored."""
        leaves = [-1, -1, *items.tolist()]
        empty = self.distributions.shape[0] - 1
        if backward:
            return self.distributions[[empty] * len(targets)]
        contexts = [_context(leaves, target) for target in targets.tolist()]
        return self.distributions[[self.row_of.get(context, empty) for context in contexts]]


def _context(leaves: Sequence[int], event: int) -> Context:
    """That of an event, in the leaves of a user's items after two of -1."""
    return leaves[event], leaves[event + 1], leaves[event + 2]


def training_examples(split: Split) -> list[Example]:
    """Every training event but a user's first, after the events before it."""
    return [
        Example(sequence.user, tuple(sequence.items[:event]), sequence.items[event], event)
        for sequence in split.train
        for event in range(1, len(sequence.items))
    ]


def item_distributions(
    folder: Path, examples: Sequence[Example], leaf_of: Mapping[str, int], beams: int
) -> Any:
    """(examples, leaves) CSR of float32: the probabilities of the items that a model recommends;
    `leaf_of` gives the column of an item, whatever SID the model's own bundle has for it."""
    loaded = load_model_folder(str(folder))
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=False)
    session, trie = QuerySession.of(loaded), loaded.bundle.trie()
    columns = np.array([leaf_of[item] for item in loaded.bundle.items.ids])
    blocks = []
    queries = example_queries(session, indexed, follow=False)
    for window in in_windows(queries, WINDOW, 0, None):
        answers = session.search_items(loaded.model, window, k=beams, num_beams=beams)
        lengths = [len(items.positions) for items in answers]
        item_rows = trie.item_rows(SidPositions(np.concatenate([a.positions for a in answers])))
        probabilities = np.exp(np.concatenate([items.scores for items in answers]))
        entries = probabilities, (np.repeat(np.arange(len(window)), lengths), columns[item_rows])
        shape = (len(window), 1 + max(leaf_of.values()))
        blocks.append(sparse.csr_matrix(entries, shape=shape))
    return sparse.vstack(blocks, format="csr").astype(np.float32)


def fused_distributions(args: Namespace, seed: int) -> tuple[Any, dict[Context, int]]:
    """The mean of both models' distributions before the training events of WORK's split, and the
    row of each event."""
    bundle = load_model_folder(str(args.work / f"seed-{seed}" / "model")).bundle
    trie = bundle.trie()
    rows = ItemRows(np.arange(len(bundle)))
    leaves = trie.leaves(trie.positions_of(rows)).tolist()
    leaf_of = dict(zip(bundle.items.ids, leaves, strict=True))
    examples = training_examples(open_split(args.work / "split"))
    models = [folder / f"seed-{seed}" / "model" for folder in (args.work, args.other)]
    stored = args.work / f"fused-{seed}-{args.beams}.npz"
    if not stored.exists():
        of_models = [item_distributions(model, examples, leaf_of, args.beams) for model in models]
        sparse.save_npz(stored, (of_models[0] + of_models[1]) / 2)
    row_of: dict[Context, int] = {}
    for row, example in enumerate(examples):
        items = [-1, -1, *(leaf_of[item] for item in (*example.history[-2:], example.item))]
        row_of.setdefault(_context(items, len(items) - 3), row)
    return sparse.load_npz(stored), row_of


def trained(args: Namespace, seed: int) -> Path:
    """The student of a seed."""
    out = Path(args.work, f"student-{args.weight}", f"seed-{seed}", "model")
    if not out.exists():
        distributions, row_of = fused_distributions(args, seed)
        memory = open_memory(str(args.work / "memory.zarr"))

        def load_teachers(_: Any, student: Any, columns: Any, **__: Any) -> Teachers:
            trie = student.bundle.trie()
            teacher = ItemTeacher(memory, student.tokens, trie, distributions, row_of)
            return Teachers([], columns, [teacher])

        setattr(trainer_setup, "load_teachers", load_teachers)  # noqa: B010
        train_recipe(args.work, seed, out, [f"distill_weight={args.weight}"])
    return out


def main() -> None:
    """Measure the student."""
    parser = comparison_parser(__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--weight", type=float, default=0.8)
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--served", action="store_true")
    args = parser.parse_args()
    change = "student of two codebooks"
    result = compare(args, trained, change)
    if args.served:
        result["served"] = compare_served(args, trained)
    store(args, result, change)


if __name__ == "__main__":
    main()
