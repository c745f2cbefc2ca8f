"""NVIDIA's sid-gr-inference (recsys-examples): the JSON Lines of its `--catalog-jsonl`.

    {"item_id": "B01", "token_ids": [151669, 151932, 152210]}

An item has one path of token ids, and no other item has the same."""

import json
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.base.output import new_file
from sidtool.integrations.formats.token_ids import ModelTokens
from sidtool.tokenizer import CollisionCounts
from sidtool.tokenizer.bundle import Bundle

BLOCK = 1 << 12
"""Items that are in memory at once."""


def write_sid_gr(bundle: Bundle, path: Path, tokens: ModelTokens, *, force: bool = False) -> None:
    """Write the active items in SID order. Raises UsageError if items share a SID."""
    items = bundle.items
    shared = CollisionCounts.of(items.codes[bundle.active]).items
    if shared:
        raise UsageError(
            f"sid-gr-inference needs one item for each SID, and {shared} items share one",
            hint="build the codebook with --collisions reassign or append",
        )
    rows = tokens.rows_with_tokens(items.codes, bundle.active)
    with new_file(path, force=force) as target, target.open("w", encoding="utf-8") as stream:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            for row, ids in zip(block.tolist(), tokens.ids(items.codes[block]), strict=True):
                line = {"item_id": items.ids[row], "token_ids": ids.tolist()}
                text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
                stream.write(f"{text}\n")
