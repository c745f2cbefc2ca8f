"""Measure codebooks of public catalogs, which the page of a bundle compares it with.

    python benchmarks/comparable.py DATA -o WORK [--json FILE]

DATA has the folders `beauty`, `sports` and `minionerec-industrial`. Measured are the maps of
semantic IDs that others published, and codebooks of the same shape that sidtool makes with its
default settings and `--encoder lexical`. Prints a table."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from codebooks import by_first_appearance
from environment import environment
from table import markdown

import sidtool
from sidtool.cli.reports.comparable import Comparable, comparison
from sidtool.data import Items
from sidtool.data.items import make_items, read_items
from sidtool.integrations.formats.minionerec import read_minionerec
from sidtool.tokenizer import Evidence, describe
from sidtool.tokenizer.bundle import Bundle

LEVELS = "256x256x256"


def measured(catalog: str, made_by: str, bundle: Bundle) -> Comparable:
    """The figures of a bundle, rounded."""
    figures = Comparable.of(catalog, describe(bundle, Evidence(None)))
    return replace(
        figures,
        made_by=made_by,
        sharing=round(figures.sharing, 4),
        used=tuple(round(share, 4) for share in figures.used),
        even=tuple(round(share, 4) for share in figures.even),
    )


def published(data: Path) -> Iterator[Comparable]:
    """The maps of others."""
    beauty = data / "beauty"
    items = by_first_appearance(read_items(beauty / "items.jsonl"), beauty / "interactions.csv")
    for kind, name in (("rqvae", "RQ-VAE"), ("rkmeans", "residual k-means")):
        path = beauty / f"{kind}_native.index.json"
        bundle = read_minionerec(path, name=kind, items=items, keys="line")
        yield measured("Amazon Beauty", f"CollisionGenRec, {name}", bundle)
    industrial = data / "minionerec-industrial"
    bundle = read_minionerec(industrial / "index.json", name="industrial")
    yield measured("Amazon Industrial", "MiniOneRec, RQ-VAE", bundle)


def industrial_items(path: Path) -> Items:
    """The catalog of MiniOneRec."""
    records = json.loads(path.read_text(encoding="utf-8"))
    titles = tuple(record["title"] for record in records.values())
    return make_items(tuple(records), titles, titles, fields={}, template="{title}")


def own(data: Path, work: Path) -> Iterator[Comparable]:
    """Codebooks with default settings."""
    catalogs: dict[str, Items | Path] = {
        "Amazon Beauty": data / "beauty" / "items.jsonl",
        "Amazon Sports": data / "sports" / "items.jsonl",
        "Amazon Industrial": industrial_items(data / "minionerec-industrial" / "item.json"),
    }
    for name, items in catalogs.items():
        out = work / f"{name.rpartition(' ')[2].lower()}.zarr"
        if not out.exists():
            sidtool.build_codebook(items, out, encoder="lexical", levels=LEVELS)
        yield measured(name, "sidtool, lexical", sidtool.open_bundle(out))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [*published(args.data), *own(args.data, args.out)]
    table = comparison(rows)
    print(markdown(table.columns, table.rows))
    if args.json is not None:
        result: dict[str, Any] = {"rows": [asdict(row) for row in rows], **environment()}
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
