"""What the models of one folder of `recipe.py` serve, beside those of another, on validation users.

    python benchmarks/served.py WORK OTHER -o FILE.json --name NAME [--seeds 0,1,2] [--seen]

Both folders have the same split, and models with a memory of these seeds. The differences are
paired by user: WORK less OTHER, and less each part of what WORK serves."""

import sys
from pathlib import Path

from changed_training import comparison_parser, served_metrics
from environment import command_line, environment, store_under
from table import markdown


def main() -> None:
    """Compare the folders."""
    parser = comparison_parser(__doc__)
    parser.add_argument("other", type=Path)
    args = parser.parse_args()
    models = [
        [folder / f"seed-{seed}" / "model+memory" for folder in (args.work, args.other)]
        for seed in args.seeds
    ]
    metrics = [served_metrics(args, served, other) for served, other in models]
    result = {
        "seeds": list(args.seeds),
        "served": metrics,
        "command": command_line("served.py", sys.argv[1:]),
        **environment(),
    }
    store_under(args.name, result, args.out)
    rows = [
        [seed, system, f"{seed_metrics['differences'][system]['ndcg@10']['mean']:+.4f}"]
        for seed, seed_metrics in zip(args.seeds, metrics, strict=True)
        for system in seed_metrics["differences"]
    ]
    print(markdown(["seed", "N@10 less that of", "difference"], rows))


if __name__ == "__main__":
    main()
