"""From vectors to the final codes of items: fit, encode, resolve collisions, measure."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.progress import Progress
from sidtool.data import VectorSource
from sidtool.tokenizer.assign.assign import Assigned, assign
from sidtool.tokenizer.assign.policy import Policy
from sidtool.tokenizer.codes.measure import codebook_report
from sidtool.tokenizer.codes.report import CodebookReport
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.quantize.resumable import encode_all
from sidtool.tokenizer.sid import LETTERS


@dataclass(frozen=True)
class ItemCodes:
    """The final codes of n items, and how they were made."""

    codebook: Codebook
    assigned: Assigned
    report: CodebookReport
    capacity: int | None
    """The size of the level that the policy `append` added."""


def make_codes(
    vectors: VectorSource,
    ids: Sequence[str],
    fit_codebook: Callable[[], Codebook],
    policy: Policy,
    *,
    seed: int = 0,
    work: Path | None = None,
    progress: Progress | None = None,
) -> ItemCodes:
    """The codes of items by their (n, dim) vectors and the codebook that `fit_codebook`
    returns.

    Finished codes are stored in the folder `work`. `progress` is called with the encoded vectors
    and their number; the seed draws the items that are measured. Warns of a level whose codes are
    hardly used (SidtoolWarning). Raises DataError if the numbers of vectors and ids differ, and as
    `assign`."""
    if len(vectors) != len(ids):
        raise DataError(f"{len(vectors)} vectors for {len(ids)} items")
    seconds: dict[str, float] = {}
    with _timed(seconds, "fit"):
        codebook = fit_codebook()
    with _timed(seconds, "encode"):
        raw = encode_all(codebook, vectors, folder=work, progress=progress)
    with _timed(seconds, "collisions"):
        assigned = assign(raw, vectors, codebook, ids, policy)
    report = codebook_report(vectors, codebook, raw, assigned, seed=seed)
    _warn_of_collapse(report)
    capacity = assigned.level_sizes[-1] if policy == "append" else None
    return ItemCodes(codebook, assigned, replace(report, seconds=seconds), capacity)


def _warn_of_collapse(report: CodebookReport) -> None:
    for letter, level in zip(LETTERS, report.levels, strict=False):
        if level.is_collapsed(report.items):
            warnings.warn(
                f"level {letter} is collapsed: its {level.size} codes have a perplexity of "
                f"{level.perplexity:.0f}; use smaller levels, or rq-kmeans with --balanced",
                SidtoolWarning,
                stacklevel=4,
            )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Record under the name `step` how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)
