"""Write a catalog in the order in which its items first appear in the interactions.

    python benchmarks/first_appearance.py ITEMS.jsonl INTERACTIONS.csv OUT.jsonl

The imported indexes of Amazon Beauty number the items in this order."""

import csv
import json
import sys
from pathlib import Path

items, interactions, out = map(Path, sys.argv[1:])
lines = {}
for line in items.read_text(encoding="utf-8").splitlines(keepends=True):
    lines[json.loads(line)["item_id"]] = line
with interactions.open(encoding="utf-8", newline="") as stream:
    ids = dict.fromkeys(row["item_id"] for row in csv.DictReader(stream))
out.write_text("".join(lines[item] for item in ids), encoding="utf-8")
