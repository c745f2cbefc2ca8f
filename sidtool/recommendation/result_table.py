"""Recommendations as a Parquet table: a row per request."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

BATCH = 4096
"""Rows that are in memory at once."""
TEXTS = ("items", "sids", "titles")
NUMBERS = ("unknown", "unknown_allowed", "unknown_denied", "missing", "line")


def write_result_table(lines: Path, path: Path) -> None:
    """Write the JSON Lines of answers as Parquet: `user`, lists `items`, `scores`, `sids` and
    `titles`, counts, `line` and `error` of bad requests, `explanations` as JSON, and `list_score`
    of lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = [(name, pa.list_(pa.string())) for name in TEXTS]
    schema = pa.schema(
        [
            ("user", pa.string()),
            *lists,
            ("scores", pa.list_(pa.float64())),
            *((name, pa.int64()) for name in NUMBERS),
            ("error", pa.string()),
            ("explanations", pa.string()),
            ("list_score", pa.float64()),
        ]
    )
    with lines.open(encoding="utf-8") as stream, pq.ParquetWriter(path, schema) as writer:
        rows = _rows(stream)
        while batch := list(islice(rows, BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _rows(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        row = json.loads(line)
        if "explanations" in row:
            row["explanations"] = json.dumps(row["explanations"], ensure_ascii=False)
        yield row
