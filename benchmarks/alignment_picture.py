"""Draw the learning curves of alignment.py, with their intervals, as one SVG file.

    python benchmarks/alignment_picture.py benchmarks/results/alignment.json docs/alignment.svg

A row for each data set: NDCG@10 by all training tokens, and by those of next items alone. Item-kNN,
popularity and the small model of the recipe are lines across. A curve is that of seed 0."""

import argparse
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from sidtool.cli.reports.blocks import LineChart, Series
from sidtool.cli.reports.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, draw_lines

METRIC = "ndcg@10"
SEED = "-0"
X_AXES = {"tokens": "training tokens", "recommendation_tokens": "tokens of next items"}
COLORS = ("#0b62c4", "#b3480a", "#1a7f37", "#8250df", "#57606a", "#8c959f", "#a40e5d")
TITLE = 24
LEGEND = 30
STYLE = "text{font:12px sans-serif;fill:#24292f}line{stroke:#d0d7de}polyline{fill:none}"


def chart(name: str, runs: Mapping[str, Any], x: str) -> LineChart:
    """The curves of one data set by one kind of tokens."""
    curves = {
        run.removesuffix(SEED): of["points"]
        for run, of in runs.items()
        if "points" in of and run.endswith(SEED)
    }
    last = max((point[x] for points in curves.values() for point in points), default=1)
    series = [
        Series(
            run,
            tuple((point[x], point["metrics"][METRIC]) for point in points),
            intervals=tuple(tuple(point["confidence_interval"][METRIC]) for point in points),
        )
        for run, points in curves.items()
    ]
    flat = {run: of for run, of in runs.items() if "metrics" in of} | runs["baselines"]
    series += [
        Series(run, ((0, of["metrics"][METRIC]), (last, of["metrics"][METRIC])))
        for run, of in flat.items()
    ]
    return LineChart(f"{name}: NDCG@10 by {X_AXES[x]}", X_AXES[x], "NDCG@10", tuple(series))


def draw(block: LineChart) -> list[str]:
    """The elements of one chart."""
    lines, x_ticks, y_ticks = draw_lines(block)
    bottom = HEIGHT - BOTTOM
    parts = [f'<text x="{LEFT}" y="-8">{escape(block.title)}</text>']
    for at, label in y_ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{label}</text>')
    for at, label in x_ticks:
        millions = f"{float(label) / 1e6:g} M"
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{millions}</text>')
    for line, color in zip(lines, COLORS * 2, strict=False):
        if line.band:
            parts.append(f'<polygon points="{line.band}" fill="{color}" opacity=".15"/>')
        dash = "" if line.band else ' stroke-dasharray="6 4"'
        parts.append(f'<polyline points="{line.points}" stroke="{color}" stroke-width="2"{dash}/>')
        dots = line.dots if line.band else ()
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{color}"/>' for x, y in dots]
    for place, (series, color) in enumerate(zip(block.series, COLORS * 2, strict=False)):
        x = LEFT + place * (WIDTH - LEFT) / len(block.series)
        parts.append(f'<text x="{x:g}" y="{HEIGHT + 8}" style="fill:{color}">{series.name}</text>')
    return parts


def picture(result: Mapping[str, Any]) -> str:
    """All charts of a results file."""
    height = TITLE + HEIGHT + LEGEND
    rows = [[chart(name, runs, x) for x in X_AXES] for name, runs in result["data"].items()]
    size = f'viewBox="0 0 {2 * WIDTH} {height * len(rows)}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>']
    for row, charts in enumerate(rows):
        for column, block in enumerate(charts):
            parts.append(f'<g transform="translate({column * WIDTH} {row * height + TITLE})">')
            parts += [*draw(block), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    result = json.loads(args.results.read_text(encoding="utf-8"))
    args.out.write_text(picture(result), encoding="utf-8")


if __name__ == "__main__":
    main()
