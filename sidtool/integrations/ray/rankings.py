"""What a model recommends for evaluation examples, ranked by several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidtool.base.progress import Progress
from sidtool.data.split import Example
from sidtool.evaluation import IndexedExamples, rank_examples
from sidtool.integrations.ray.engine import Engine, check_engine, run_job
from sidtool.integrations.ray.models import ModelSource
from sidtool.model import LoadedModel
from sidtool.recommendation import WINDOW, RankedQueries
from sidtool.recommendation.search import Normalize

EXAMPLES = 2 * WINDOW
"""Examples of a part: queries that run together are those of a single process."""


@dataclass(frozen=True)
class RankJob:
    """Ranks the SIDs, or with a memory the items, of a shard."""

    source: ModelSource
    k: int
    num_beams: int
    exclude_seen: bool
    is_mixed: bool
    normalize: Normalize | None = None

    def open(self) -> Callable[[Sequence[Example]], RankedQueries]:
        """Load the model."""
        loaded = self.source.load()
        return lambda shard: self._rank(loaded, shard)

    def _rank(self, loaded: LoadedModel, shard: Sequence[Example]) -> RankedQueries:
        examples = IndexedExamples.of(loaded.bundle, shard, exclude_seen=self.exclude_seen)
        return rank_examples(
            loaded,
            examples,
            k=self.k,
            num_beams=self.num_beams,
            is_mixed=self.is_mixed,
            normalize=self.normalize,
        )


@dataclass(frozen=True)
class ClusterRanker:
    """Ranks for a model by several processes that load it; `evaluate` takes it as `ranker`."""

    source: ModelSource
    engine: Engine = "ray"
    workers: int | None = None
    examples: int = EXAMPLES

    def __post_init__(self) -> None:
        check_engine(self.engine, self.workers)

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
        job = RankJob(self.source, k, num_beams, examples.exclude_seen, is_mixed, normalize)
        ranked: dict[int, RankedQueries] = {}
        for index, part in run_job(job, shards, engine=self.engine, workers=self.workers):
            ranked[index] = part
            if progress is not None:
                done = sum(len(each.leaves) for each in ranked.values())
                progress(done, len(examples.examples))
        return RankedQueries.joined([ranked[index] for index in range(len(shards))])
