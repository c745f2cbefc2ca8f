"""Re-rankers for tests: random networks."""

from dataclasses import replace

import numpy as np

from sidtool.memory.manifest import MemoryManifest
from sidtool.memory.mixture.index import WeightedMemory
from sidtool.memory.mixture.reranker import N_FEATURES, Network, Reranker, network_shapes
from sidtool.model.load import LoadedModel
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.memory.cases import small_memory


def random_reranker(
    manifest: MemoryManifest,
    *,
    seed: int = 0,
    networks: int = 2,
    scale: float = 1.0,
    strength: float = 0.3,
    new_item_bonus: float = 0.0,
    n_features: int = N_FEATURES,
) -> Reranker:
    """A re-ranker of random weights; with strength 0 it adds nothing."""
    shapes = network_shapes(n_features)
    rng = np.random.default_rng(seed)
    arrays = [
        Network(*((strength * rng.normal(size=shape)).astype(np.float32) for shape in shapes))
        for _ in range(networks)
    ]
    return Reranker.of(
        rng.normal(size=n_features).tolist(),
        rng.uniform(0.5, 2, size=n_features).tolist(),
        arrays,
        manifest,
        scale=scale,
        exclude_seen=False,
        new_item_bonus=new_item_bonus,
    )


def reranked_model() -> LoadedModel:
    """A tiny model of 60 items with a memory and a re-ranker, which changes the order of items."""
    loaded = loaded_model(small_bundle(60))
    memory = small_memory(loaded.bundle)
    weighted = WeightedMemory(memory, 0.4, reranker=random_reranker(memory.manifest))
    contract = replace(loaded.contract, normalize="trie")
    return replace(loaded, contract=contract, memory=weighted)
