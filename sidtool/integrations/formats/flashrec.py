"""FlashRec: the JSON catalog of its `--sid-vocab-file`, and the `--sid` option that goes with it.

The catalog maps comma-separated codes to items: {"12,200,7,1": [{"pid": "B01"}], ...}. The last
code is that of the end token in a level {begin, end}, so that its probability is part of the score,
as in FlashRec's own converter. FlashRec infers the token layout from the tokenizer and the first
key only for three levels with the spelling of OpenOneRec."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.output import new_file
from sidtool.integrations.formats.token_ids import ModelTokens
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import SPELLINGS, SidSpace

INFERRED_LEVELS = 3
END = 1
"""Code of the end token in the level {begin, end}."""
BLOCK = 1 << 12
"""Items that are in memory at once."""


def write_flashrec(bundle: Bundle, path: Path, *, force: bool = False) -> None:
    """Write the active items in SID order, one SID after the other. Raises UsageError if SIDs have
    no begin and end token."""
    if not bundle.space.has_begin_end_tokens:
        raise UsageError(
            "FlashRec needs a begin and an end token around a SID, and this bundle has none"
        )
    with new_file(path, force=force) as target, target.open("w", encoding="utf-8") as stream:
        separator = "{"
        # equal SIDs follow each other
        for key, items in groupby(_keys_and_ids(bundle), key=lambda pair: pair[0]):
            pids = [{"pid": item} for _, item in items]
            value = json.dumps(pids, ensure_ascii=False, separators=(",", ":"))
            stream.write(f'{separator}"{key}":{value}')
            separator = ","
        stream.write("{}" if separator == "{" else "}")


def _keys_and_ids(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """The key of the SID and the id of each active item, in SID order."""
    items = bundle.items
    for start in range(0, len(bundle.active), BLOCK):
        rows = bundle.active[start : start + BLOCK]
        for row, codes in zip(rows.tolist(), items.codes[rows].tolist(), strict=True):
            yield ",".join(map(str, [*codes, END])), items.ids[row]


def infers_layout(space: SidSpace) -> bool:
    """Whether FlashRec infers the token layout of this space."""
    spelling = {"template": space.template, "begin": space.begin, "end": space.end}
    return space.levels == INFERRED_LEVELS and spelling == SPELLINGS["openonerec"]


def sid_option(space: SidSpace, tokens: ModelTokens) -> str:
    """The value of `--sid` for a model: START:END/SIZES.

    The begin and end tokens are the last level. Raises CompatibilityError unless the token ids are
    one block, as FlashRec computes them by arithmetic.
    """
    start = tokens.block_start
    if start is None:
        raise CompatibilityError(
            "FlashRec needs SID tokens whose ids follow each other level by level, and those of "
            "this model do not",
            hint="serve this model with --to xllm",
        )
    sizes = [*space.sizes, 2]
    return f"{start}:{start + sum(sizes) - 1}/{','.join(map(str, sizes))}"
