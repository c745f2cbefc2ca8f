"""Write a catalog in the order in which its items first appear in the interactions.

    python benchmarks/first_appearance.py ITEMS.jsonl INTERACTIONS.csv OUT.jsonl

The imported indexes of Amazon Beauty number the items in this order."""

import argparse
import csv
import json
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("items", type=Path)
parser.add_argument("interactions", type=Path)
parser.add_argument("out", type=Path)
args = parser.parse_args()
lines = {}
with args.items.open(encoding="utf-8") as stream:
    for line in stream:
        lines[str(json.loads(line)["item_id"])] = line
with args.interactions.open(encoding="utf-8", newline="") as stream:
    ids = dict.fromkeys(row["item_id"] for row in csv.DictReader(stream))
if lacking := ids.keys() - lines.keys():
    parser.error(f"{args.items} lacks {len(lacking)} items with events, such as {min(lacking)!r}")
args.out.write_text("".join(lines[item] for item in ids), encoding="utf-8")
