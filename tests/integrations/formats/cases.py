"""Inputs of several tests of other systems' files."""

from dataclasses import replace

import numpy as np

from sidtool.model.vocabulary import NO_TOKEN, SidTokens
from sidtool.tokenizer.bundle import Bundle, ItemMap
from tests.bundles import small_bundle


def sorted_tokens(bundle: Bundle, start: int, unused: tuple[tuple[int, int], ...]) -> SidTokens:
    """Token ids in the order of the tokens' text, as MiniOneRec's TokenExtender numbers them;
    `unused` (level, code) have none."""
    space = replace(bundle.space, begin=None, end=None)
    lacking = {space.token(level, code) for level, code in unused}
    present = sorted(token for token in space.tokens if token not in lacking)
    token_ids = {token: start + number for number, token in enumerate(present)}
    return SidTokens.of_ids(space, [token_ids.get(token, NO_TOKEN) for token in space.tokens])


def numbered_bundle(
    items: int, sizes: tuple[int, ...] = (64, 64, 64), *, duplicates: bool = False
) -> Bundle:
    """A map without a codebook of items whose ids are large numbers, in any order."""
    bundle = small_bundle(items, sizes, codebook=False, duplicates=duplicates)
    numbers = np.random.default_rng(0).permutation(items).tolist()
    ids = [str(10**12 + 7 * number) for number in numbers]
    item_map = ItemMap.of(bundle.space, ids, bundle.items.codes, None)
    return Bundle.of(item_map, None, bundle.manifest.collisions.policy, name="numbered")
