"""Inputs of several tests of other systems' files."""

from dataclasses import replace

import numpy as np

from sidtool.model.vocabulary import NO_TOKEN, SidTokens
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.sid import SidSpace


def sorted_tokens(bundle: Bundle, start: int, unused: tuple[tuple[int, int], ...]) -> SidTokens:
    """Token ids in the order of the tokens' text, as MiniOneRec's TokenExtender numbers them;
    `unused` (level, code) have none."""
    space = replace(bundle.space, begin=None, end=None)
    lacking = {space.token(level, code) for level, code in unused}
    present = sorted(token for token in space.tokens if token not in lacking)
    token_ids = {token: start + number for number, token in enumerate(present)}
    return SidTokens.of_ids(space, [token_ids.get(token, NO_TOKEN) for token in space.tokens])


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
