"""Tables of strings in every container, for tests."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Table = dict[str, list[str]]
CONTAINERS = ("x.csv", "x.csv.GZ", "x.tsv", "x.jsonl", "x.jsonl.gz", "x.ndjson", "x.json")
CONTAINERS += ("x.parquet", "x.pq")


def write_table(path: Path, table: Table) -> Path:
    """Write columns of strings at `path`, in the container that its suffix names."""
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    kind = path.name.lower().removesuffix(".gz").rsplit(".", 1)[1]
    if kind in ("parquet", "pq"):
        pq.write_table(pa.table(table), path)
        return path
    with (
        gzip.open(path, "wt", encoding="utf-8", newline="")
        if path.suffix.lower() == ".gz"
        else path.open("w", encoding="utf-8", newline="") as stream
    ):
        if kind in ("jsonl", "ndjson", "json"):
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        elif kind in ("item", "inter"):
            stream.write("\t".join(f"{name}:token" for name in table) + "\n")
            stream.writelines("\t".join(row.values()) + "\n" for row in rows)
        else:
            writer = csv.writer(stream, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([list(table), *(row.values() for row in rows)])
    return path
