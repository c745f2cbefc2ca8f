"""The pairs of a memory, counted by several processes: each counts a part of the users, then each
adds up and normalizes a block of the items."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings, hash_array
from sidtool.base.errors import UsageError
from sidtool.base.output import remove
from sidtool.data import Texts, Vectors
from sidtool.data.split import Example, SplitManifest, evenly_spaced, folder_manifest, read_split
from sidtool.integrations.cluster.engines import ENGINES
from sidtool.integrations.cluster.output import PartFolder, PartReport, work_parts
from sidtool.integrations.cluster.pair_blocks import (
    count_part,
    item_blocks,
    join_blocks,
    sum_items,
    write_block,
)
from sidtool.integrations.cluster.run import RunOptions, Work, make_parts
from sidtool.integrations.cluster.shards import MAX_PARTS
from sidtool.memory import Cells, KnnSettings, SparseRows
from sidtool.registry import open_source

FORMAT = 2
"""Of the files that workers exchange."""


def parts_manifest(split: Path) -> SplitManifest:
    """The manifest of a split folder, whose parts workers read. Raises UsageError for what is no
    folder, and as `folder_manifest`."""
    manifest = folder_manifest(split)
    if manifest is None:
        raise UsageError(
            f"{split} is no split folder: workers read its parts",
            hint=f"sidtool split {split} -o SPLIT --engine ray",
        )
    return manifest


@dataclass
class ClusterPairs:
    """Counts the pairs of a split folder by several processes; `build_memory` takes it as
    `counter`. `opened` makes one."""

    split: Path
    manifest: SplitManifest
    folder: PartFolder
    run: RunOptions
    parts: list[Path] = field(default_factory=list)
    n_pairs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(items,): the pairs of each item in all parts"""

    @classmethod
    @contextmanager
    def opened(
        cls, split: Path, bundle: str, out: Path, run: RunOptions
    ) -> Iterator["ClusterPairs"]:
        """With a work folder beside the output, which holds the counts until the block ends well.

        Raises UsageError if the split is no folder, or the interrupted run that is to be resumed
        had other inputs."""
        manifest = parts_manifest(split)
        made_from = {
            "format": FORMAT,
            "split": manifest.digest,
            "files": digest_strings(manifest.files.keys(), manifest.files.values()),
            "bundle": open_source(bundle).identity.digest,
        }
        place = out.with_name(f"{out.name}.pairs")
        connected = ENGINES[run.engine].connect(run.workers)
        with work_parts(place, made_from, resume=run.resume) as folder, connected:
            yield cls(split, manifest, folder, run)
            remove(Path(folder.url))

    def count(self, ids: Texts, distance: float) -> NDArray[np.int64]:
        """As `PairCounter.count`; each part of the users is a file of the work folder."""
        import pyarrow as pa

        folder = self.folder.subfolder(f"counts-{distance!r}")
        ids_file = Path(self.folder.url) / "ids.arrow"
        batch = pa.record_batch([ids.arrow], ["id"])
        with pa.OSFile(str(ids_file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)
        job = partial(_open_counting, self.split, ids_file, distance)
        reports = make_parts(job, self._folders, folder, self.run)
        self.parts = [Path(folder.url) / report.name for report in reports]
        self.n_pairs, events = sum_items(self.parts, len(ids))
        return events

    def similar(
        self, events: NDArray[np.int64], settings: KnnSettings, content: Any
    ) -> tuple[SparseRows, SparseRows]:
        """As `PairCounter.similar`; the rows are mapped from files of the work folder."""
        remove(Path(self.folder.url) / "blocks")  # they may be of other settings
        folder = self.folder.subfolder("blocks")
        events_file = Path(folder.url) / "events.npy"
        np.save(events_file, events, allow_pickle=False)
        sizes = self.n_pairs
        if content is not None:
            content = (content + content.T).tocsr()
            sizes = sizes + np.diff(content.indptr)
        blocks = [
            (block, None if content is None else content[slice(*block)])
            for block in item_blocks(sizes)
        ]
        job = partial(_open_blocks, self.parts, settings, events_file)
        reports = make_parts(job, blocks, folder, self.run)
        return join_blocks([Path(folder.url) / report.name for report in reports], Path(folder.url))

    def nearest_items(self, directions: Vectors) -> Any:
        """As `PairCounter.nearest_items`; the vectors are mapped from files of the work folder."""
        cells = Cells.of(directions)
        blocks = cells.blocks
        step = -(-len(blocks) // MAX_PARTS)  # rounded up
        shards = [blocks[start : start + step] for start in range(0, len(blocks), step)]
        digest = hashlib.sha256()
        hash_array(digest, "directions", directions)
        hash_array(digest, "probed", cells.probed)
        folder = self.folder.subfolder(f"content-{digest.hexdigest()}")
        place = Path(folder.url)
        for name, array in vars(cells).items():
            np.save(place / name, array, allow_pickle=False)
        reports = make_parts(partial(_open_comparing, place), shards, folder, self.run)
        nearest = [np.load(place / report.name, allow_pickle=False) for report in reports]
        return cells.similarity(np.concatenate(nearest))

    def validation_examples(self, count: int | None) -> Sequence[Example]:
        """As `PairCounter.validation_examples`, of the users of the first parts that have so
        many."""
        examples: list[Example] = []
        for folder in self._folders:
            if count is None or len(examples) < count:
                examples += read_split(self.split, folder).valid
        return evenly_spaced(examples, count)

    @property
    def _folders(self) -> Sequence[str | None]:
        """The folders of the parts of the split, or None for one that is not in parts."""
        return self.manifest.folders if self.manifest.parts > 1 else [None]


def _open_counting(split: Path, ids_file: Path, distance: float) -> Work[str | None]:
    """Map the ids of all items, to count the pairs of the users in folders of the split."""
    import pyarrow as pa

    ids = Texts(pa.ipc.open_file(pa.memory_map(str(ids_file))).get_batch(0).column(0))

    def count(number: int, folder: str | None, place: Path) -> PartReport:
        name = f"{number:07d}.arrow"
        n_pairs = count_part(read_split(split, folder), ids, distance, place / name)
        return PartReport(name, n_pairs)

    return count


def _open_blocks(
    parts: Sequence[Path], settings: KnnSettings, events_file: Path
) -> Work[tuple[tuple[int, int], Any]]:
    """Map the events of all items, to add up blocks, given with the content of their items."""
    events = np.load(events_file, "r", allow_pickle=False)

    def add(number: int, shard: tuple[tuple[int, int], Any], place: Path) -> PartReport:
        name = f"{number:07d}.npz"
        block, content = shard
        rows = write_block(parts, block, events, settings, content, place / name)
        return PartReport(name, rows)

    return add


def _open_comparing(place: Path) -> Work[Sequence[tuple[int, int]]]:
    """Map the vectors of all items, to compare those of some blocks."""
    paths = place.glob("[a-z]*.npy")  # those of the results have numbers
    cells = Cells(**{path.stem: np.load(path, "r", allow_pickle=False) for path in paths})

    def compare(number: int, blocks: Sequence[tuple[int, int]], out: Path) -> PartReport:
        name = f"{number:07d}.npy"
        nearest = np.concatenate([cells.nearest(first, stop) for first, stop in blocks])
        np.save(out / name, nearest, allow_pickle=False)
        return PartReport(name, len(nearest))

    return compare
