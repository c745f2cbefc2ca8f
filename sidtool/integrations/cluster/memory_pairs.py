"""The pairs of a memory, counted by several processes: each counts a part of the users, then each
adds up and normalizes a block of the items. Counts are integers, so the sums are those of all users
at once."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings, hash_array
from sidtool.base.errors import UsageError
from sidtool.base.locations import opened
from sidtool.base.output import remove
from sidtool.base.ranges import ranges
from sidtool.data import Texts, Vectors
from sidtool.data.split import (
    Example,
    Split,
    SplitManifest,
    evenly_spaced,
    folder_manifest,
    read_split,
)
from sidtool.data.split.pairs import count_pairs, item_sequences, sum_pairs
from sidtool.integrations.cluster.engines import CLUSTERS, ENGINES
from sidtool.integrations.cluster.output import PartFolder, PartReport, work_parts
from sidtool.integrations.cluster.run import RunOptions, Work, parts_in_order
from sidtool.integrations.cluster.shards import MAX_PARTS
from sidtool.memory import (
    Cells,
    KnnSettings,
    SparseRows,
    count_events,
    rows_in_files,
    similar_block,
)
from sidtool.tokenizer.bundle import Bundle

FORMAT = 2
"""Of the files that workers exchange."""
BLOCK_PAIRS = 1 << 21
"""Pairs of a block of items, in all parts and by both items: a worker takes about 60 bytes for
each."""
READ_PAIRS = 1 << 14
"""Pairs of a part that are read together: a block reads up to two times so many that it does not
need."""

Block = tuple[tuple[int, int], Any]
"""The first item of a block and the end of it, and the rows that its items have of the symmetric
similarity by content, or None."""


def parts_manifest(split: Path) -> SplitManifest:
    """The manifest of a split folder, whose parts workers read. Raises UsageError for what is no
    folder, and as `folder_manifest`."""
    manifest = folder_manifest(split)
    if manifest is None:
        raise UsageError(
            f"{split} is no split folder: workers read its parts",
            hint=f"sidtool split {split} -o SPLIT --engine {CLUSTERS}",
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
        cls, split: Path, bundle: Bundle | str, out: Path, run: RunOptions
    ) -> Iterator["ClusterPairs"]:
        """With a work folder beside the output, which holds the counts until the block ends well.

        Raises UsageError if the split is no folder, or the interrupted run that is to be resumed
        had other inputs."""
        manifest = parts_manifest(split)
        made_from = {
            "format": FORMAT,
            "split": manifest.digest,
            "files": digest_strings(manifest.files.keys(), manifest.files.values()),
            "bundle": opened(bundle, "open_source").identity.digest,
        }
        place = out.with_name(f"{out.name}.pairs")
        connected = ENGINES[run.engine].connect(run.workers)
        with work_parts(place, made_from, resume=run.resume) as folder, connected:
            yield cls(split, manifest, folder, run)
            remove(Path(folder.url))  # before workers end, which takes long: the output is whole

    def count(self, ids: Texts, distance: float) -> NDArray[np.int64]:
        """As `PairCounter.count`; each part of the users is a file of the work folder."""
        folder = self.folder.subfolder(f"counts-{distance!r}")
        ids_file = Path(self.folder.url) / "ids.arrow"
        Texts.write_columns(ids_file, {"id": ids})
        job = partial(_open_counting, self.split, ids_file, distance)
        reports = parts_in_order(job, self._folders, folder, self.run)
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
        place = Path(folder.url)
        paths = [place / report.name for report in parts_in_order(job, blocks, folder, self.run)]
        return join_blocks(paths, place)

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
        reports = parts_in_order(partial(_open_comparing, place), shards, folder, self.run)
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
    ids = Texts.map_columns(ids_file)["id"]

    def count(number: int, folder: str | None, place: Path) -> PartReport:
        name = f"{number:07d}.arrow"
        n_pairs = count_part(read_split(split, folder), ids, distance, place / name)
        return PartReport(name, n_pairs)

    return count


def _open_blocks(parts: Sequence[Path], settings: KnnSettings, events_file: Path) -> Work[Block]:
    """Map the events of all items, to add up blocks."""
    events = np.load(events_file, "r", allow_pickle=False)

    def add(number: int, block: Block, place: Path) -> PartReport:
        name = f"{number:07d}.npz"
        return PartReport(name, write_block(parts, block, events, settings, place / name))

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


def count_part(split: Split, ids: Texts, distance: float, out: Path) -> int:
    """Count the pairs of the training events of some users -> the number of pairs.

    The first batch of the file has each item with events, its number of pairs with others, and
    its events. The next ones have the pairs in the order of items: an item, a later one or, plus
    the number of all items, an earlier one, and the weight. Raises RefusedError if a held-out event
    is among the training events."""
    import pyarrow as pa
    from scipy import sparse

    sequences = item_sequences(split, ids)
    # numbers within the part: its memory does not grow with the other items
    seen, numbers = np.unique(sequences.values, return_inverse=True)
    sequences = replace(sequences, values=numbers.astype(np.int32))
    later = count_pairs(sequences, len(seen), distance)
    pairs = sparse.hstack([later, later.T.tocsr()], format="csr")
    others = np.concatenate([seen, seen + np.int64(len(ids))])
    n_pairs = np.diff(pairs.indptr)
    columns = {
        "item": np.repeat(seen, n_pairs).astype(np.uint32),
        "other": others[pairs.indices],
        "weight": pairs.data,
    }
    first_items = columns["item"][::READ_PAIRS].tobytes()
    table = pa.table(columns).replace_schema_metadata({"first_items": first_items})
    items = [seen.astype(np.uint32), n_pairs.astype(np.int64), count_events(sequences, len(seen))]
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(out), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=options) as file,
    ):
        file.write_batch(pa.record_batch(items, schema=table.schema))
        file.write_table(table, max_chunksize=READ_PAIRS)
    return int(later.nnz)


def sum_items(parts: Sequence[Path], n_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n_items,) each: the pairs that all parts have of each item, and its events."""
    import pyarrow as pa

    n_pairs, events = np.zeros((2, n_items), dtype=np.int64)
    for path in parts:
        with pa.memory_map(str(path)) as stored:
            items, part_pairs, part_events = pa.ipc.open_file(stored).get_batch(0).columns
            n_pairs[items.to_numpy()] += part_pairs.to_numpy()
            events[items.to_numpy()] += part_events.to_numpy()
    return n_pairs, events


def item_blocks(sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Blocks of consecutive items of these sizes (pairs): each has about BLOCK_PAIRS, or one item
    that has more. An item counts as one pair more, so that those without pairs fill blocks, too."""
    return list(ranges(sizes + 1, BLOCK_PAIRS))


def write_block(
    parts: Sequence[Path], block: Block, events: NDArray[np.int64], settings: KnnSettings, out: Path
) -> int:
    """Write the counted pairs of a block of items with later ones, and the similar items of each:
    rows of what `CountedPairs` and `similar_items` have of all items -> the number of similar
    pairs. Raises DataError for a pair that weighs too much."""
    (first, stop), content = block
    n_items = len(events)
    part_pairs = [_read_pairs(path, first, stop, n_items) for path in parts]
    counted = sum_pairs(part_pairs)
    del part_pairs
    later, earlier = counted[:, :n_items], counted[:, n_items:]
    del counted
    similar = similar_block(later, earlier, events[first:stop], events, settings, content)
    pairs, neighbors = SparseRows.of(later, np.int64), SparseRows.of(similar, np.float32)
    with out.open("wb") as stream:
        np.savez(
            stream,
            later_offset=pairs.offsets,
            later_item=pairs.items,
            later_weight=pairs.weights,
            neighbors_offset=neighbors.offsets,
            neighbors_item=neighbors.items,
            neighbors_weight=neighbors.weights,
        )
    return len(neighbors.items)


def _read_pairs(path: Path, first: int, stop: int, n_items: int) -> Any:
    """(stop - first, 2 * n_items) CSR: the pairs that a part has of a block of items."""
    import pyarrow as pa
    from scipy import sparse

    with pa.memory_map(str(path)) as stored:
        file = pa.ipc.open_file(stored)
        first_items = np.frombuffer(file.schema.metadata[b"first_items"], dtype=np.uint32)
        # the batch before the first that begins within the block may end within it
        begin, end = np.searchsorted(first_items, (first, stop)).tolist()
        batches = range(max(1, begin), 1 + end)
        table = pa.Table.from_batches(map(file.get_batch, batches), file.schema)
    items, others, weights = (column.to_numpy() for column in table.columns)
    inside = slice(*np.searchsorted(items, (first, stop)))
    coordinates = (items[inside].astype(np.int64) - first, others[inside])
    return sparse.csr_matrix((weights[inside], coordinates), shape=(stop - first, 2 * n_items))


def join_blocks(paths: Sequence[Path], folder: Path) -> tuple[SparseRows, SparseRows]:
    """The counted pairs and the similar items of all items, of the files of all blocks, mapped from
    files of a folder."""

    def rows_of(name: str) -> Iterator[SparseRows]:
        for path in paths:
            with np.load(path, allow_pickle=False) as stored:
                parts = ("offset", "item", "weight")
                yield SparseRows(*(stored[f"{name}_{part}"] for part in parts))

    later = rows_in_files("later", rows_of("later"), np.int64, folder)
    return later, rows_in_files("neighbors", rows_of("neighbors"), np.float32, folder)
