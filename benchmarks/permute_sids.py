"""A control: the same catalog, the same SIDs, dealt out to the items at random.

Usage: permute_sids.py BUNDLE OUT [SEED]. A model trained on OUT in the same way shows what the
meaning of the SIDs is worth: vocabulary, shape, rows and number of collisions are equal. (Its new
rows begin at random: it has no codebook.)"""

import sys

import numpy as np

from sidtool import Bundle
from sidtool.bundle import ItemMap

source, target, seed = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["0"])[0])
bundle = Bundle.open(source)
items = bundle.items
dealt = items.codes[np.random.default_rng(seed).permutation(len(items))]
titles = [items.title(row) for row in range(len(items))]
shuffled = ItemMap.of(bundle.space, list(items.ids), dealt, titles)
# a map without a codebook: these SIDs come from no vector
Bundle.of(shuffled, None, bundle.manifest.collisions["policy"], name="permuted").save(
    target, force=True
)
print(f"{target}: {len(items)} SIDs of {source} dealt out with seed {seed}")
