"""The pairs of a memory, counted by several processes: each counts a part of the users, then each
adds up and normalizes a block of the items."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.errors import UsageError
from sidtool.base.output import remove
from sidtool.data.split import SplitManifest, is_split_folder, read_split, stored_manifest
from sidtool.integrations.cluster.output import PartFolder, PartReport, work_parts
from sidtool.integrations.cluster.run import RunOptions, Work, make_parts
from sidtool.integrations.cluster.shards import part_count
from sidtool.memory import ItemBlocks, KnnSettings, SparseRows, join_blocks
from sidtool.registry import open_source


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
        place = out.with_name(f"{out.name}.pairs")
        with work_parts(place, made_from, resume=run.resume) as folder:
            yield cls(split, manifest, bundle, folder, run)
            remove(Path(folder.url))

    def count(self, ids: Sequence[str], distance: float) -> NDArray[np.int64]:
        """As `PairCounter.count`; each part of the users is a file of the work folder."""
        n_blocks = part_count(self.manifest.counts.train_events)
        self.blocks = ItemBlocks(len(ids), min(n_blocks, len(ids)))
        folder = self.folder.subfolder(f"counts-{distance!r}")
        folders = self.manifest.folders if self.manifest.parts > 1 else [None]
        job = partial(_open_counting, self.split, self.bundle, distance, self.blocks)
        reports = make_parts(job, folders, folder, self.run)
        self.parts = [Path(folder.url) / report.name for report in reports]
        return self.blocks.sum_events(self.parts)

    def similar(
        self, events: NDArray[np.int64], settings: KnnSettings, content: Any
    ) -> tuple[SparseRows, SparseRows]:
        """As `PairCounter.similar`; the rows are mapped from files of the work folder."""
        remove(Path(self.folder.url) / "blocks")  # they may be of other settings
        folder = self.folder.subfolder("blocks")
        events_file = Path(folder.url) / "events.npy"
        np.save(events_file, events, allow_pickle=False)
        if content is not None:
            content = (content + content.T).tocsr()
        bounds = self.blocks.bounds.tolist()
        of_blocks = [
            None if content is None else content[start:stop] for start, stop in pairwise(bounds)
        ]
        job = partial(_open_blocks, self.parts, self.blocks, settings, events_file)
        reports = make_parts(job, of_blocks, folder, self.run)
        return join_blocks([Path(folder.url) / report.name for report in reports], Path(folder.url))


def _open_counting(
    split: Path, bundle: str, distance: float, blocks: ItemBlocks
) -> Work[str | None]:
    """Read the ids of a bundle, to count the pairs of the users in folders of the split."""
    ids = list(open_source(bundle).items.ids)

    def count(number: int, folder: str | None, place: Path) -> PartReport:
        name = f"{number:07d}.arrow"
        pairs = blocks.count_part(read_split(split, folder), ids, distance, place / name)
        return PartReport(name, pairs)

    return count


def _open_blocks(
    parts: Sequence[Path], blocks: ItemBlocks, settings: KnnSettings, events_file: Path
) -> Work[Any]:
    """Read the events of all items, to add up blocks, given with the content of their items."""
    events = np.load(events_file, allow_pickle=False)

    def add(number: int, content: Any, place: Path) -> PartReport:
        name = f"{number:07d}.npz"
        rows = blocks.write_block(parts, number, events, settings, content, place / name)
        return PartReport(name, rows)

    return add
