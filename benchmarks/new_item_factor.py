"""What users with old and with new targets gain and lose by the factor of new items in a memory.

    python benchmarks/new_item_factor.py MODEL SPLIT MEMORY [--users 2400] [--num-beams 60] [--seen]

MODEL is a trained model of the memory's bundle, or of one that it is a later version of. Users are
validation users, of which a share needs targets without training events: `lifecycle.py` makes such
a split. Weight and power are the best for users with old targets without new items. Changes are
from the same mixture in which new items are excluded, from the model's part too. Recall@10, item
level, items of the history left out unless `--seen` is given."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from environment import environment
from numpy.typing import NDArray
from table import markdown

from sidtool.data.split.files import open_split
from sidtool.data.split.split import evenly_spaced
from sidtool.evaluation.tuning import TuneMemoryOptions
from sidtool.evaluation.tuning.memory_tuning import candidates_of
from sidtool.evaluation.tuning.mixture_candidates import Candidates, K
from sidtool.evaluation.tuning.mixture_choice import MixtureChoice
from sidtool.model.load import load_model_folder
from sidtool.registry.references import open_memory

FACTORS = (1.0, 0.9, 0.8, 0.7, 0.5, 0.25, 0.0)

Row = tuple[float, float, float]
"""Factor, recall of new targets, change of the recall of old ones."""


def curve(candidates: Candidates, choice: MixtureChoice) -> list[Row]:
    """A row for each of FACTORS."""
    is_old = candidates.is_warm
    before = hits(choice, candidates.without_new_items())[is_old].mean()
    rows = []
    for factor in FACTORS:
        after = hits(choice, candidates.with_factor(factor))
        rows.append((factor, float(after[~is_old].mean()), float(after[is_old].mean() - before)))
    return rows


def hits(choice: MixtureChoice, candidates: Candidates) -> NDArray[np.bool_]:
    """(n,) whether each user's target is among the first ten."""
    return choice.ranks(candidates) < K


def shown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    cells = [[f"{factor:g}", f"{new:.3f}", f"{old:+.4f}"] for factor, new, old in rows]
    return markdown(["factor", "R@10 of new targets", "change of R@10 of old targets"], cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "split", "memory"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("--users", type=int, default=2400)
    parser.add_argument("--num-beams", type=int, default=60)
    parser.add_argument("--seen", action="store_true")
    args = parser.parse_args()
    options = TuneMemoryOptions(
        users=args.users, num_beams=args.num_beams, exclude_seen=not args.seen
    )
    loaded = load_model_folder(str(args.model))
    memory = open_memory(str(args.memory))
    examples = evenly_spaced(open_split(args.split).valid, args.users)
    candidates = candidates_of(loaded, memory, examples, options)
    choice = MixtureChoice.of(candidates.select(candidates.is_warm).with_factor(0.0))
    weight = "by a gate" if choice.gate else f"{choice.weight:g}"
    n_old = int(candidates.is_warm.sum())
    print(json.dumps(environment()))
    print(
        f"{n_old} users with old targets, {candidates.users - n_old} with new ones; weight "
        f"{weight}, power {choice.power:g}\n"
    )
    print(shown(curve(candidates, choice)))


if __name__ == "__main__":
    main()
