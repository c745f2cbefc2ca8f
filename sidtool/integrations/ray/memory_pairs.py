"""The pairs of a memory, counted by several processes: each counts a part of the users, then each
adds up and normalizes a block of the items."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.errors import UsageError
from sidtool.base.output import locked, remove
from sidtool.base.work_folder import open_work_folder
from sidtool.data.split import SplitManifest, is_split_folder, read_split, stored_manifest
from sidtool.integrations.ray.output import RESTART, PartFolder, PartReport
from sidtool.integrations.ray.run import RunOptions, make_parts
from sidtool.integrations.ray.shards import part_count
from sidtool.memory import ItemBlocks, KnnSettings, SparseRows, join_blocks
from sidtool.registry import open_source


@dataclass(frozen=True)
class PairPart:
    """The users in one folder of the split."""

    number: int
    folder: str | None
    """None for a split that is not in parts"""


@dataclass(frozen=True, eq=False)
class PairBlock:
    """A block of items."""

    number: int
    content: Any
    """As `ItemBlocks.write_block`"""


@dataclass
class ClusterPairs:
    """Counts the pairs of a split folder by several processes; `build_memory` takes it as
    `counter`. `opened` makes one."""

    split: Path
    manifest: SplitManifest
    bundle: str
    folder: PartFolder
    run: RunOptions
    parts: list[Path] = field(default_factory=list)
    blocks: ItemBlocks = field(default_factory=lambda: ItemBlocks(0, 1))

    @classmethod
    @contextmanager
    def opened(
        cls, split: Path, bundle: str, out: Path, run: RunOptions
    ) -> Iterator["ClusterPairs"]:
        """With a work folder beside the output, which holds the counts until the block ends well.

        Raises UsageError if the split is no folder, or the interrupted run that is to be resumed
        had other inputs."""
        if not is_split_folder(split):
            raise UsageError(
                f"{split} is no split folder: workers read its parts",
                hint=f"sidtool split {split} -o SPLIT --engine ray",
            )
        manifest = stored_manifest(split)
        made_from = {
            "blocks": part_count(manifest.counts.train_events),
            "split": manifest.digest,
            "files": digest_strings(manifest.files.keys(), manifest.files.values()),
            "bundle": open_source(bundle).identity.digest,
        }
        with locked(out.with_name(f"{out.name}.pairs")) as work:
            if not run.resume:
                remove(work)
            open_work_folder(work, made_from, restart=RESTART)
            yield cls(split, manifest, bundle, PartFolder(str(work.absolute())), run)
            remove(work)

    def count(self, ids: Sequence[str], distance: float) -> NDArray[np.int64]:
        """As `PairCounter.count`; each part of the users is a file of the work folder."""
        n_blocks = part_count(self.manifest.counts.train_events)
        self.blocks = ItemBlocks(len(ids), min(n_blocks, len(ids)))
        counts = self.folder.subfolder(f"counts-{distance!r}")
        folders = self.manifest.folders if self.manifest.parts > 1 else [None]
        shards = [PairPart(number, folder) for number, folder in enumerate(folders)]
        job = partial(_open_counting, self.split, self.bundle, distance, self.blocks, counts)
        reports = make_parts(job, shards, counts, self.run)
        self.parts = [Path(counts.url) / report.name for report in reports]
        return self.blocks.sum_events(self.parts)

    def similar(
        self, events: NDArray[np.int64], settings: KnnSettings, content: Any
    ) -> tuple[SparseRows, SparseRows]:
        """As `PairCounter.similar`; the rows are mapped from files of the work folder."""
        remove(Path(self.folder.url) / "blocks")  # they may be of other settings
        folder = self.folder.subfolder("blocks")
        np.save(Path(folder.url) / "events.npy", events, allow_pickle=False)
        if content is not None:
            content = (content + content.T).tocsr()
        bounds = self.blocks.bounds.tolist()
        shards = [
            PairBlock(number, None if content is None else content[bounds[number] : stop])
            for number, stop in enumerate(bounds[1:])
        ]
        job = partial(_open_blocks, self.parts, self.blocks, settings, folder)
        reports = make_parts(job, shards, folder, self.run)
        return join_blocks([Path(folder.url) / report.name for report in reports], Path(folder.url))


def _open_counting(
    split: Path, bundle: str, distance: float, blocks: ItemBlocks, folder: PartFolder
) -> Callable[[PairPart], PartReport]:
    """Read the ids of a bundle, to count the pairs of parts."""
    ids = list(open_source(bundle).items.ids)

    def count(part: PairPart) -> PartReport:
        name = f"{part.number:07d}.arrow"
        with TemporaryDirectory(prefix="sidtool-") as place:
            path = Path(place) / name
            pairs = blocks.count_part(read_split(split, part.folder), ids, distance, path)
            folder.put_file(name, path)
        return folder.record(part.number, PartReport(name, pairs, "", {}))

    return count


def _open_blocks(
    parts: Sequence[Path], blocks: ItemBlocks, settings: KnnSettings, folder: PartFolder
) -> Callable[[PairBlock], PartReport]:
    """Read the events of all items, to add up blocks."""
    events = np.load(Path(folder.url) / "events.npy", allow_pickle=False)

    def add(block: PairBlock) -> PartReport:
        name = f"{block.number:07d}.npz"
        with TemporaryDirectory(prefix="sidtool-") as place:
            path = Path(place) / name
            rows = blocks.write_block(parts, block.number, events, settings, block.content, path)
            folder.put_file(name, path)
        return folder.record(block.number, PartReport(name, rows, "", {}))

    return add
