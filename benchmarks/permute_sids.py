"""Write a bundle with the same items and the same SIDs, assigned to each other at random.

    python benchmarks/permute_sids.py BUNDLE OUT [--seed 0]

A model trained on OUT in the same way shows what the meaning of the SIDs contributes: vocabulary,
codes and number of collisions are equal. OUT has no codebook, because its SIDs come from no
vectors."""

import argparse

import numpy as np

from sidtool import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("bundle")
parser.add_argument("out")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

bundle = Bundle.open(args.bundle)
items = bundle.items
codes = items.codes[np.random.default_rng(args.seed).permutation(len(items))]
titles = [items.title(row) for row in range(len(items))]
permuted = ItemMap.of(bundle.space, list(items.ids), codes, titles)
policy = bundle.manifest.collisions.policy
Bundle.of(permuted, None, policy, name="permuted").save(args.out, force=True)
print(f"{args.out}: the SIDs of {len(items)} items permuted with seed {args.seed}")
