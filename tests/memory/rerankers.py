"""Re-rankers for tests: random networks."""

import numpy as np

from sidtool.memory.manifest import MemoryManifest
from sidtool.memory.reranker import N_FEATURES, SHAPES, Network, Reranker


def random_reranker(
    manifest: MemoryManifest,
    *,
    seed: int = 0,
    networks: int = 2,
    scale: float = 1.0,
    strength: float = 0.3,
) -> Reranker:
    """A re-ranker of random weights; with strength 0 it adds nothing."""
    rng = np.random.default_rng(seed)
    arrays = [
        Network(*((strength * rng.normal(size=shape)).astype(np.float32) for shape in SHAPES))
        for _ in range(networks)
    ]
    return Reranker.of(
        rng.normal(size=N_FEATURES).tolist(),
        rng.uniform(0.5, 2, size=N_FEATURES).tolist(),
        arrays,
        manifest,
        scale=scale,
        exclude_seen=False,
    )
