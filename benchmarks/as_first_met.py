"""Write a catalog in the order in which its items first occur in the events: Beauty's imported
indexes count so.

Usage: as_first_met.py ITEMS.jsonl EVENTS.csv OUT.jsonl. `codebooks.py` says by which figures that
order is told."""

import csv
import json
import sys
from pathlib import Path

items, events, out = map(Path, sys.argv[1:])
lines = {
    json.loads(line)["item_id"]: line
    for line in items.read_text(encoding="utf-8").splitlines(keepends=True)
}
with events.open(encoding="utf-8", newline="") as stream:
    met = dict.fromkeys(row["item_id"] for row in csv.DictReader(stream))
out.write_text("".join(lines[item] for item in met), encoding="utf-8")
