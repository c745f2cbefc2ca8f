"""What a model recommends, by several processes that load it: for a folder of requests, and for
evaluation examples."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import given_ids, options_from
from sidtool.base.progress import Progress
from sidtool.data.split import Example
from sidtool.data.tables import as_url
from sidtool.evaluation import IndexedExamples, rank_examples
from sidtool.integrations.cluster.engines import EngineName, WorkerOptions, run_job
from sidtool.integrations.cluster.output import PartReport, part_name
from sidtool.integrations.cluster.run import RunOptions, Work, run_over_folder
from sidtool.integrations.cluster.shards import ROWS, Shard
from sidtool.memory.mixture import MemoryOptions, WeightedMemory
from sidtool.model import (
    LoadedModel,
    ModelOptions,
    check_model_folder,
    choose_memory,
    load_model_folder,
)
from sidtool.model.contract import Contract, model_folder
from sidtool.recommendation import (
    WINDOW,
    BadRequest,
    Outcome,
    RankedQueries,
    RecommendOptions,
    answer_each,
    check_explain,
    count_unknown,
    listed_items,
    read_parquet_requests,
    warn_of_unknown,
    write_result_table,
)
from sidtool.recommendation.search import Normalize
from sidtool.registry import locate_model, open_bundle, with_version
from sidtool.tokenizer.bundle import Bundle

EXAMPLES = 2 * WINDOW
"""Examples of a part: queries that run together are those of a single process."""


@dataclass(frozen=True)
class ModelSource(ModelOptions):
    """Where a model is, and how it is loaded; paths must be those of every worker."""

    model: str
    memory: MemoryOptions = field(default_factory=MemoryOptions)

    def with_versions(self) -> "ModelSource":
        """The same with the versions that the references name now, so that every process loads the
        same if a tag moves. Raises as `locate` does."""
        location = self.memory.location
        return replace(
            self,
            model=with_version(self.model),
            bundle=self.bundle and with_version(self.bundle),
            memory=replace(self.memory, location=location and with_version(str(location))),
        )

    def load(self) -> LoadedModel:
        """Load the model. Raises as `load_model_folder` does."""
        return load_model_folder(
            self.model,
            bundle=self.bundle or None,
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            memory=self.memory,
        )

    def check(self) -> tuple[Contract, Bundle, WeightedMemory | None]:
        """The contract of the model, and the bundle and memory that are used. Reads no weights;
        raises as `check_model_folder` and `choose_memory` do."""
        folder = model_folder(locate_model(self.model))
        given_bundle = open_bundle(self.bundle) if self.bundle else None
        contract, bundle, _ = check_model_folder(folder, given_bundle)
        return contract, bundle, choose_memory(folder, contract.memory, bundle, self.memory)

    def record(
        self, contract: Contract, bundle: Bundle, used_memory: WeightedMemory | None
    ) -> dict[str, Any]:
        """What a lineage says of it, with what `check` returns: the digests of the contract, which
        has those of the model's files, of the bundle, and of a memory that is used in place of the
        model's own."""
        contract_text = json.dumps(contract.to_json(), sort_keys=True, ensure_ascii=False)
        memory = {
            name: None if value is None else str(value)
            for name, value in asdict(self.memory).items()
        }
        if self.memory.location is not None and used_memory is not None:
            memory["digest"] = used_memory.memory.digest
        return {
            "model": hashlib.sha256(contract_text.encode()).hexdigest(),
            "bundle": bundle.identity.digest,
            "dtype": self.dtype,
            "memory": memory,
        }


@keeps_inputs()
def recommend_folder(
    model: ModelSource | str | Path,
    requests: str | Path,
    out: str | Path,
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | Path | None = None,
    stop: bool = False,
    run: RunOptions | None = None,
    shard_rows: int = ROWS,
    **keywords: Any,
) -> Outcome:
    """Answer the requests of a Parquet file, or of a folder of such at any fsspec URL, and write a
    folder of Parquet with a row per request, in the order of the requests. The options may also be
    given as keywords.

    The rows are those of `recommend_to_file`, to the last bit if `shard_rows` is a multiple of the
    queries that run together (`query.WINDOW`), and the parts the same for any engine and number of
    workers. A request that cannot be answered has an `error` in its row; with `stop` it is raised.
    Raises UsageError if `out` exists, and as `recommend` does.

    Examples:
        >>> import pyarrow as pa, pyarrow.parquet as pq
        >>> pq.write_table(pa.table({"history": [["b001", "b002"]]}), "requests.parquet")
        >>> outcome = sidtool.recommend_folder("tuned", "requests.parquet", "recommended", k=3)
        >>> outcome.requests, outcome.bad
        (1, 0)
    """
    requests = as_url(requests)
    source = ModelSource(str(model)) if isinstance(model, str | Path) else model
    source = source.with_versions()
    options = options_from(RecommendOptions, options, keywords)
    listed = None if candidates is None else given_ids(candidates)
    contract, bundle, memory = source.check()
    check_explain(options, memory is not None and memory.is_used)
    listed_items(bundle, options, listed)  # says what is wrong with them, before a worker starts
    made_from = {
        "command": "recommend",
        **source.record(contract, bundle, memory),
        "options": options.record(listed),
    }
    work = partial(_open_answering, source, requests, options, listed, stop)
    report = run_over_folder(
        work, requests, as_url(out), made_from, run or RunOptions(), shard_rows=shard_rows
    )
    counts = report.counts
    warn_of_unknown(counts)
    note = next((part.note for part in report.parts if part.note), None)
    first_bad = None if note is None else BadRequest(DataError(note), None)
    return Outcome(report.rows, counts.get("short", 0), counts.get("bad", 0), first_bad)


def _open_answering(
    source: ModelSource,
    requests: str,
    options: RecommendOptions,
    candidates: tuple[str, ...] | None,
    stop: bool,
) -> Work[Shard]:
    """Load a model, to answer shards of `requests`, a folder that errors name."""
    loaded = source.load()

    def answer(number: int, shard: Shard, place: Path) -> PartReport:
        counts = Counter[str]()
        first_error = ""
        lines = place / "lines"
        with warnings.catch_warnings(), lines.open("w", encoding="utf-8") as stream:
            warnings.simplefilter("ignore", SidtoolWarning)  # counted, and said once for all parts
            read = read_parquet_requests(shard.fetch(place), name=requests, first_row=shard.first)
            for answered in answer_each(loaded, read, options, candidates=candidates, stop=stop):
                counts["requests"] += 1
                if isinstance(answered, BadRequest):
                    counts["bad"] += 1
                    first_error = first_error or str(answered.error)
                else:
                    counts["short"] += answered.missing > 0
                    counts.update(count_unknown(answered))
                line = json.dumps(answered.to_json(), ensure_ascii=False, allow_nan=False)
                stream.write(f"{line}\n")
        part = place / part_name(number)
        write_result_table(lines, part)
        return PartReport(
            part.name, counts["requests"], file_digest(part), dict(counts), first_error
        )

    return answer


@dataclass(frozen=True)
class ClusterRanker:
    """Ranks for a model by several processes that load it; `evaluate` takes it as `ranker`."""

    source: ModelSource
    engine: EngineName = "ray"
    workers: int | None = None
    examples: int = EXAMPLES

    def __post_init__(self) -> None:
        WorkerOptions(self.engine, self.workers)  # raises
        object.__setattr__(self, "source", self.source.with_versions())

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
        job = partial(_open_ranking, self.source, examples.exclude_seen, search)
        ranked: dict[int, RankedQueries] = {}
        for index, part in run_job(job, shards, WorkerOptions(self.engine, self.workers)):
            ranked[index] = part
            if progress is not None:
                done = sum(len(ranking.leaves) for ranking in ranked.values())
                progress(done, len(examples.examples))
        return RankedQueries.joined([ranked[index] for index in range(len(shards))])


def _open_ranking(
    source: ModelSource, exclude_seen: bool, search: Mapping[str, Any]
) -> Callable[[Sequence[Example]], RankedQueries]:
    """Load a model, to rank the SIDs, or with a memory the items, of parts of the examples."""
    loaded = source.load()

    def rank(shard: Sequence[Example]) -> RankedQueries:
        examples = IndexedExamples.of(loaded.bundle, shard, exclude_seen=exclude_seen)
        return rank_examples(loaded, examples, **search)

    return rank
