"""Recommendations for a folder of requests."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.options import options_from
from sidtool.integrations.ray.models import ModelSource
from sidtool.integrations.ray.output import PartFolder, PartReport
from sidtool.integrations.ray.run import RunOptions, run_over_folder
from sidtool.integrations.ray.shards import ROWS, Shard
from sidtool.recommendation import (
    Answer,
    BadRequest,
    Outcome,
    RecommendOptions,
    answer_each,
    count_unknown,
    read_parquet_requests,
    warn_of_unknown,
    write_result_table,
)


def _open_model(
    source: ModelSource,
    requests: str,
    options: RecommendOptions,
    candidates: tuple[str, ...] | None,
    stop: bool,
    folder: PartFolder,
) -> Callable[[Shard], PartReport]:
    """Load a model, to answer shards of `requests`, a folder that errors name."""
    loaded = source.load()

    def answer(shard: Shard) -> PartReport:
        with TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore", SidtoolWarning)  # counted, and said once for all parts
            place = Path(name)
            read = read_parquet_requests(shard.fetch(place), name=requests, first_row=shard.first)
            answers = answer_each(loaded, read, options, candidates=candidates, stop=stop)
            counts, first_error = _write_lines(place / "lines", answers)
            write_result_table(place / "lines", place / "part")
            data = (place / "part").read_bytes()
        return folder.write(shard.number, data, counts["requests"], counts, first_error)

    return answer


def _write_lines(path: Path, answers: Iterable[Answer]) -> tuple[Counter[str], str]:
    """Write a line of JSON per answer -> counts by kind, and the first error, "" without one."""
    counts: Counter[str] = Counter()
    first_error = ""
    with path.open("w", encoding="utf-8") as stream:
        for answer in answers:
            counts["requests"] += 1
            if isinstance(answer, BadRequest):
                counts["bad"] += 1
                first_error = first_error or str(answer.error)
            else:
                counts["short"] += answer.missing > 0
                counts.update(count_unknown(answer))
            line = json.dumps(answer.to_json(), ensure_ascii=False, allow_nan=False)
            stream.write(line + "\n")
    return counts, first_error


def recommend_folder(
    model: ModelSource | str,
    requests: str,
    out: str,
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | None = None,
    stop: bool = False,
    run: RunOptions | None = None,
    shard_rows: int = ROWS,
    **given: Any,
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
    source = ModelSource(model) if isinstance(model, str) else model
    options = options_from(RecommendOptions, options, given)
    listed = None if candidates is None else tuple(candidates)
    settings = asdict(options)
    for name, ids in (("allow", options.allow), ("deny", options.deny), ("candidates", listed)):
        settings[name] = None if ids is None else digest_strings(ids)
    made_from = {"command": "recommend", **source.record(), "options": settings}
    work = partial(_open_model, source, requests, options, listed, stop)
    report = run_over_folder(
        work, requests, out, made_from, run or RunOptions(), shard_rows=shard_rows
    )
    counts = report.counts
    warn_of_unknown(counts)
    first_bad = None
    if report.notes:
        first_bad = BadRequest(DataError(report.notes[0]), None)
    return Outcome(report.rows, counts.get("short", 0), counts.get("bad", 0), first_bad)
