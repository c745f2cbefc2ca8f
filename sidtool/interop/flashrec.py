"""FlashRec: the JSON catalog of its `--sid-vocab-file`, and the `--sid` option that goes with it.

The catalog maps comma-separated codes to items: {"12,200,7,1": [{"pid": "B01"}], ...}. The last
code is that of the end token in a level {begin, end}, so that its probability is part of the score,
as in FlashRec's own converter. FlashRec infers the token layout from the tokenizer and the first
key only for three levels with the spelling of OpenOneRec."""

import json
from pathlib import Path

from sidtool.bundle.bundle import Bundle
from sidtool.errors import UsageError
from sidtool.output import new_file
from sidtool.sid import SPELLINGS, SidSpace

INFERRED_LEVELS = 3
END = 1
"""Code of the end token in the level {begin, end}."""


def write_flashrec(bundle: Bundle, path: Path, *, force: bool = False) -> None:
    """Write the active items in SID order. Raises UsageError if SIDs have no begin and end
    token."""
    if not bundle.space.has_begin_end_tokens:
        raise UsageError(
            "FlashRec needs a begin and an end token around a SID, and this bundle has none"
        )
    catalog: dict[str, list[dict[str, str]]] = {}
    for row in bundle.active:
        codes = [*bundle.items.codes[row].tolist(), END]
        key = ",".join(map(str, codes))
        catalog.setdefault(key, []).append({"pid": bundle.items.ids[int(row)]})
    text = json.dumps(catalog, ensure_ascii=False, separators=(",", ":"))
    with new_file(path, force=force) as target:
        target.write_text(text, encoding="utf-8")


def infers_layout(space: SidSpace) -> bool:
    """Whether FlashRec infers the token layout of this space."""
    spelling = {"template": space.template, "begin": space.begin, "end": space.end}
    return space.levels == INFERRED_LEVELS and spelling == SPELLINGS["openonerec"]


def sid_option(space: SidSpace, token_start: int) -> str:
    """The value of `--sid` for a model whose SID tokens start at `token_start`: START:END/SIZES.

    The begin and end tokens are the last level: they follow the codes in the token block.
    """
    sizes = [*space.sizes, 2]
    token_end = token_start + sum(sizes) - 1
    return f"{token_start}:{token_end}/{','.join(map(str, sizes))}"
