"""What a model recommends for evaluation examples, ranked by several processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sidtool.base.progress import Progress
from sidtool.data.split import Example
from sidtool.evaluation import IndexedExamples, rank_examples
from sidtool.integrations.ray.models import ModelSource
from sidtool.integrations.ray.workers import Engine, WorkerOptions, run_job
from sidtool.recommendation import WINDOW, RankedQueries
from sidtool.recommendation.search import Normalize

EXAMPLES = 2 * WINDOW
"""Examples of a part: queries that run together are those of a single process."""


@dataclass(frozen=True)
class ClusterRanker:
    """Ranks for a model by several processes that load it; `evaluate` takes it as `ranker`."""

    source: ModelSource
    engine: Engine = "ray"
    workers: int | None = None
    examples: int = EXAMPLES

    def __post_init__(self) -> None:
        WorkerOptions(self.engine, self.workers)  # raises

    def __call__(
        self,
        examples: IndexedExamples,
        *,
        k: int,
        num_beams: int,
        is_mixed: bool,
        normalize: Normalize | None = None,
        progress: Progress | None = None,
    ) -> RankedQueries:
        """The best SIDs, or items with a memory, for each example."""
        starts = range(0, len(examples.examples), self.examples)
        shards = [examples.examples[start : start + self.examples] for start in starts]
        search = {"k": k, "num_beams": num_beams, "is_mixed": is_mixed, "normalize": normalize}
        job = partial(_open_model, self.source, examples.exclude_seen, search)
        ranked: dict[int, RankedQueries] = {}
        for index, part in run_job(job, shards, WorkerOptions(self.engine, self.workers)):
            ranked[index] = part
            if progress is not None:
                done = sum(len(ranking.leaves) for ranking in ranked.values())
                progress(done, len(examples.examples))
        return RankedQueries.joined([ranked[index] for index in range(len(shards))])


def _open_model(
    source: ModelSource, exclude_seen: bool, search: Mapping[str, Any]
) -> Callable[[Sequence[Example]], RankedQueries]:
    """Load a model, to rank the SIDs, or with a memory the items, of parts of the examples."""
    loaded = source.load()

    def rank(shard: Sequence[Example]) -> RankedQueries:
        examples = IndexedExamples.of(loaded.bundle, shard, exclude_seen=exclude_seen)
        return rank_examples(loaded, examples, **search)

    return rank
