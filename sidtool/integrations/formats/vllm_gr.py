"""vllm-gr: the JSON catalog of its `--catalog-path`, a list with the tokens of each SID.

    [["<|sid_begin|>", "<s_a_7060>", "<s_b_18>", "<s_c_1748>", "<|sid_end|>"], ...]

It has no item ids: the client looks up the items of a SID."""

import json
from pathlib import Path

import numpy as np

from sidtool.base.output import new_file
from sidtool.tokenizer.bundle import Bundle

BLOCK = 1 << 12
"""SIDs that are in memory at once."""


def write_vllm_gr(bundle: Bundle, path: Path, *, force: bool = False) -> None:
    """Write the SIDs of the active items, each once, in SID order."""
    space = bundle.space
    codes = bundle.items.codes[bundle.active]
    is_first = np.ones(len(codes), dtype=np.bool_)
    is_first[1:] = (codes[1:] != codes[:-1]).any(axis=1)  # equal SIDs follow each other
    codes = codes[is_first]
    with new_file(path, force=force) as target, target.open("w", encoding="utf-8") as stream:
        separator = "["
        for start in range(0, len(codes), BLOCK):
            for row in codes[start : start + BLOCK].tolist():
                tokens = [space.token(level, code) for level, code in enumerate(row)]
                if space.begin is not None and space.end is not None:
                    tokens = [space.begin, *tokens, space.end]
                text = json.dumps(tokens, ensure_ascii=False, separators=(",", ":"))
                stream.write(f"{separator}{text}")
                separator = ",\n"
        stream.write("]\n")
