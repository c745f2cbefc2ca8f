"""The output file of recommendations, which an interrupted run leaves and a later one continues."""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sidtool.base.errors import UsageError
from sidtool.base.output import locked, publish, refuse_existing, remove
from sidtool.base.work_folder import open_work_folder
from sidtool.data.tables import PARQUET
from sidtool.model import LoadedModel
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import BadRequest, Outcome, Request

RESULTS = "results.jsonl"
REQUESTS = "requests.sha256"
TABLE = "results.parquet"
DIGEST_BYTES = 8
SAMPLED_VALUES = 1024
RESTART = "without --resume the run starts again"


@dataclass(frozen=True)
class ResultFile:
    """JSON Lines, one per request, and beside them the digest of each request."""

    results: IO[bytes]
    digests: IO[bytes]
    answered: tuple[bytes, ...]
    """digests of the requests that an interrupted run answered"""
    pending: deque[bytes] = field(default_factory=deque)
    """digests of the requests that were read and have no line yet"""
    outcome: Outcome = field(default_factory=Outcome)
    """what became of the requests that an interrupted run answered"""

    def remaining(self, requests: Iterable[Request | BadRequest]) -> Iterator[Request | BadRequest]:
        """The requests that an interrupted run did not answer.

        Raises UsageError if it answered other requests."""
        requests = iter(requests)
        for skipped, answered in enumerate(self.answered):
            request = next(requests, None)
            if request is None:
                other = f"the unfinished run answered {len(self.answered)} requests, not {skipped}"
            elif _digest(request) != answered:
                other = f"request {skipped + 1} is not the one that the unfinished run answered"
            else:
                continue
            raise UsageError(other, hint=f"repeat its requests to resume it; {RESTART}")
        for request in requests:
            self.pending.append(_digest(request))
            yield request

    def write(self, line: Mapping[str, Any]) -> None:
        """Append the line of the first request that has none."""
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        self.results.write(f"{text}\n".encode())
        self.results.flush()  # what a killed process has answered is not lost
        self.digests.write(self.pending.popleft())
        self.digests.flush()


@contextmanager
def result_file(
    path: Path, fingerprint: Mapping[str, Any], *, resume: bool, force: bool
) -> Iterator[ResultFile]:
    """The lines of the output `path`, which appears when the block ends well; else its unfinished
    work stays in `PATH.partial`.

    Raises UsageError if `path` exists, without `force`; with `resume`, if an unfinished run had
    another `fingerprint` (everything that determines the lines but the requests)."""
    with locked(path) as work:
        refuse_existing(path, force)
        if not resume:
            remove(work)
        open_work_folder(work, fingerprint, restart=RESTART)
        answered, outcome = _answered(work)
        try:
            with (work / RESULTS).open("ab") as results, (work / REQUESTS).open("ab") as digests:
                yield ResultFile(results, digests, answered, outcome=outcome)
        except BaseException:
            if not (work / RESULTS).stat().st_size:
                remove(work)  # there is nothing to resume
            raise
        refuse_existing(path, force)
        finished = work / RESULTS
        if path.name.lower().endswith(PARQUET):
            finished = work / TABLE
            write_result_table(work / RESULTS, finished)
        publish(finished, path)
        remove(work)


def run_fingerprint(
    loaded: LoadedModel, options: RecommendOptions, candidates: Sequence[str] | None
) -> dict[str, Any]:
    """Everything that determines the recommendations for a request, as JSON values."""
    # the contract names the model's stages; a sample of its weights is read
    contract = json.dumps(loaded.contract.to_json(), sort_keys=True, ensure_ascii=False)
    state = hashlib.sha256(contract.encode())
    for name, weight in loaded.model.named_parameters():
        state.update(f"{name} {tuple(weight.shape)}".encode())
        sample = weight.detach().flatten()[:SAMPLED_VALUES]
        state.update(sample.float().cpu().numpy().tobytes())
    return {
        "model": state.hexdigest(),
        "dtype": str(loaded.model.dtype),
        "bundle": loaded.bundle.identity.digest,
        "options": options.record(candidates),
        "memory": None if loaded.memory is None else loaded.memory.to_json(),
    }


def _answered(work: Path) -> tuple[tuple[bytes, ...], Outcome]:
    """The digests of the requests that have a complete line, and what their lines say; what is
    written behind them is removed."""
    outcome = Outcome()
    with (work / RESULTS).open("a+b") as results, (work / REQUESTS).open("a+b") as digests:
        digests.seek(0)
        stored = digests.read()
        n_digests = len(stored) // DIGEST_BYTES
        results.seek(0)
        n_lines = 0
        n_bytes = 0
        for line in islice(results, n_digests):
            if line.endswith(b"\n"):
                n_lines += 1
                n_bytes += len(line)
                outcome.add_line(json.loads(line))
        results.truncate(n_bytes)
        digests.truncate(n_lines * DIGEST_BYTES)
    starts = range(0, n_lines * DIGEST_BYTES, DIGEST_BYTES)
    return tuple(stored[start : start + DIGEST_BYTES] for start in starts), outcome


def _digest(request: Request | BadRequest) -> bytes:
    return hashlib.sha256(repr(request).encode("utf-8", "backslashreplace")).digest()[:DIGEST_BYTES]


BATCH = 4096
"""Rows that are in memory at once."""
TEXTS = ("items", "sids", "titles")
NUMBERS = ("unknown", "unknown_allowed", "unknown_denied", "missing", "line")


def write_result_table(lines: Path, path: Path) -> None:
    """Write the JSON Lines of answers as Parquet: `user`, lists `items`, `scores`, `sids` and
    `titles`, counts, `line` and `error` of bad requests, `explanations` as JSON, and `list_score`
    of lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("user", pa.string()),
            *((name, pa.list_(pa.string())) for name in TEXTS),
            ("scores", pa.list_(pa.float64())),
            *((name, pa.int64()) for name in NUMBERS),
            ("error", pa.string()),
            ("explanations", pa.string()),
            ("list_score", pa.float64()),
        ]
    )
    with lines.open(encoding="utf-8") as stream, pq.ParquetWriter(path, schema) as writer:
        while batch := [json.loads(line) for line in islice(stream, BATCH)]:
            for row in batch:
                if "explanations" in row:
                    row["explanations"] = json.dumps(row["explanations"], ensure_ascii=False)
            writer.write_table(pa.Table.from_pylist(batch, schema))
