"""Inputs of several tests of other systems' files."""

import numpy as np

from sidtool.integrations.formats.export import ModelTokens
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import SidSpace


def block_tokens(bundle: Bundle, start: int, vocabulary: int = 0) -> ModelTokens:
    """Token ids of a bundle in one block, as `extend-model` numbers them."""
    space = bundle.space
    levels = []
    first = start
    for size in space.sizes:
        levels.append(np.arange(first, first + size, dtype=np.int64))
        first += size
    begin_end = (first, first + 1) if space.has_begin_end_tokens else None
    return ModelTokens(tuple(levels), begin_end, vocabulary or start + len(space.tokens))


def sorted_tokens(bundle: Bundle, start: int, unused: tuple[tuple[int, int], ...]) -> ModelTokens:
    """Token ids in the order of the tokens' text, as MiniOneRec's TokenExtender numbers them;
    `unused` (level, code) have none."""
    space = bundle.space
    spelled = {
        space.token(level, code): (level, code)
        for level, size in enumerate(space.sizes)
        for code in range(size)
        if (level, code) not in unused
    }
    levels = [np.full(size, -1, dtype=np.int64) for size in space.sizes]
    for number, text in enumerate(sorted(spelled)):
        level, code = spelled[text]
        levels[level][code] = start + number
    return ModelTokens(tuple(levels), None, start + len(spelled))


def numbered_bundle(
    items: int, sizes: tuple[int, ...] = (64, 64, 64), *, duplicates: bool = False, seed: int = 0
) -> Bundle:
    """A map without a codebook of items whose ids are large numbers, in any order."""
    rng = np.random.default_rng(seed)
    space = SidSpace(sizes)
    keys = rng.choice(space.capacity, size=items, replace=duplicates)
    codes = np.stack(np.unravel_index(keys, sizes), axis=1).astype(np.uint16)
    ids = [str(10**12 + 7 * number) for number in rng.permutation(items).tolist()]
    policy = "allow" if duplicates else "reassign"
    return Bundle.of(ItemMap.of(space, ids, codes, None), None, policy, name="numbered")
