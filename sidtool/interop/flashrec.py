"""FlashRec: the JSON catalog that its `--sid-vocab-file` takes, and the `--sid` that it needs
beside it.

The catalog maps comma-separated codes to what they stand for: {"12,200,7,1": [{"pid": "B01"}],
...}. The last code is that of the end marker in a level {begin, end} of its own, so that the
marker's probability is part of the score; it is what FlashRec's own converter writes. FlashRec
infers the token layout from the tokenizer and the first key, and takes a key of four codes, and no
other, to end with the marker: with any other depth or spelling it must be told."""

import json
from pathlib import Path

import numpy as np

from sidtool.bundle.bundle import Bundle
from sidtool.errors import UsageError
from sidtool.output import new_file
from sidtool.sid import SPELLINGS, SidSpace

GUESSED_LEVELS = 3
END = 1
"""Code of the end marker in the level of the two markers."""


def write_flashrec(bundle: Bundle, path: Path, *, force: bool = False) -> None:
    """Write the SIDs of the active items, in SID order. Raises UsageError if the bundle's SIDs have
    no markers."""
    if not bundle.space.has_markers:
        raise UsageError(
            "FlashRec needs a begin and an end token around a SID, and this bundle has none"
        )
    catalog: dict[str, list[dict[str, str]]] = {}
    for row in bundle.active:
        key = ",".join(map(str, [*bundle.items.codes[row].tolist(), END]))
        catalog.setdefault(key, []).append({"pid": bundle.items.ids[int(row)]})
    with new_file(path, force=force) as target:
        target.write_text(
            json.dumps(catalog, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
        )


def is_guessed(space: SidSpace) -> bool:
    """Whether FlashRec finds the layout of this space by itself."""
    usual = SPELLINGS["openonerec"]
    spelled = {"template": space.template, "begin": space.begin, "end": space.end}
    return space.levels == GUESSED_LEVELS and spelled == usual


def sid_option(space: SidSpace, token_start: int) -> str:
    """The value of `--sid` for a model whose block of SID tokens starts at `token_start`:
    START:END/SIZE,...

    The markers are the last level: sidtool puts them behind the codes, begin before end.
    """
    sizes = [*space.sizes, 2]
    return f"{token_start}:{token_start + int(np.sum(sizes)) - 1}/{','.join(map(str, sizes))}"
