"""xLLM: the binary vocabulary from which it decodes items and, on request, constrains beams.

A file of records without a header, each of 20 bytes in little-endian order: the item id as int64,
then three token ids as int32 (`rec_vocab_dict.cpp`). Items with one SID have a record each.
"""

from pathlib import Path

import numpy as np

from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import new_file
from sidtool.integrations.formats.maps import are_numbers
from sidtool.integrations.formats.token_ids import ModelTokens
from sidtool.tokenizer.bundle import Bundle

LEVELS = 3
"""Token ids of a record."""
RECORD = np.dtype([("item", "<i8"), ("tokens", "<i4", (LEVELS,))])
BLOCK = 1 << 14
"""Records that are in memory at once."""


def write_xllm(bundle: Bundle, path: Path, tokens: ModelTokens, *, force: bool = False) -> None:
    """Write the active items in SID order, a block of records at a time.

    Raises UsageError unless SIDs have three levels, DataError for an id that is no number.
    """
    if bundle.space.levels != LEVELS:
        raise UsageError(
            f"xLLM needs semantic IDs of {LEVELS} levels, and these have {bundle.space.levels}"
        )
    items = bundle.items
    rows = tokens.rows_with_tokens(items.codes, bundle.active)
    with new_file(path, force=force) as target, target.open("wb") as stream:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            ids = [items.ids[row] for row in block.tolist()]
            if not are_numbers(ids):
                wrong = next(item for item in ids if not are_numbers([item]))
                raise DataError(f"xLLM needs item ids that are numbers, not {wrong[:60]!r}")
            records = np.empty(len(block), dtype=RECORD)
            records["item"] = np.array(ids, dtype=np.int64)
            records["tokens"] = tokens.ids(items.codes[block])
            stream.write(records.tobytes())
