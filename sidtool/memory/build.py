"""Builds a memory of a split's training events, anew or from an earlier memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.data.split.cooccurrence import WINDOW, add_pairs, count_pairs, item_sequences
from sidtool.data.split.record import check_split
from sidtool.data.split.split import Split
from sidtool.data.vectors import Vectors
from sidtool.memory.content import ItemContent, content_similarity
from sidtool.memory.manifest import MemoryManifest
from sidtool.memory.memory import Memory, SparseRows
from sidtool.memory.sharded import Shards, sharded_rows
from sidtool.memory.similarity import KnnSettings, count_events, similarity_of
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.manifest import library_versions, now

DEFAULT = KnnSettings(reverse=0.3, normalization=0.3, neighbors=100)
"""Settings of a memory, a compromise over the validation users of four data sets (docs/memory.md);
more neighbors cost time at inference."""

Sequences = Sequence[NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class EarlierMemory:
    """A memory to update, and the split that it was built from.

    Raises CompatibilityError if it was built from another one, or with another window."""

    memory: Memory
    split: Split

    def __post_init__(self) -> None:
        recorded = self.memory.manifest.train_digest
        if recorded != self.split.train_digest:
            raise CompatibilityError(
                f"the memory counts training events {recorded[:12]}, the earlier split has "
                f"{self.split.train_digest[:12]}",
                hint="give the split that the memory was built from",
            )
        window = self.memory.manifest.window
        if window != WINDOW:
            raise CompatibilityError(
                f"the memory counts pairs within {window} positions, this version within {WINDOW}",
                hint="build the memory anew",
            )


def check_memory_split(bundle: Bundle, split: Split) -> None:
    """Raise CompatibilityError if the codebook of a bundle may have learned from events that a
    split holds out."""
    codebook = f"the codebook of bundle {bundle.manifest.name!r}"
    made_from = bundle.manifest.made_from.split
    check_split(codebook, made_from, "the split of the memory", split.reference)


def build_memory(
    split: Split,
    bundle: Bundle,
    settings: KnnSettings | None = None,
    *,
    earlier: EarlierMemory | None = None,
    content: ItemContent | None = None,
    tuned_on: int | None = None,
    shards: Shards | None = None,
) -> Memory:
    """The memory of a split's training events, by the items of a bundle.

    With `earlier`, only users whose events changed are counted again; the result equals that of
    building anew, and `settings` defaults to those of the earlier memory. With `content`, items
    are also similar by content, new ones too; the content of the earlier memory is used only if it
    is given here. `tuned_on` is the number of validation users that chose the settings, if they
    did. With `shards`, the arrays of the memory lie in files of their folder; the values are the
    same.

    Raises CompatibilityError if the bundle's codebook, or the choice of the earlier memory's
    settings, may have learned from events that the split holds out, RefusedError if a held-out
    event is among the training events, DataError if no two items co-occur, UsageError if `settings`
    count pairs otherwise than the earlier memory or the budget is too small, IntegrityError if that
    one does not count the pairs of its split.

    Examples:
        >>> split = sidtool.open_split("split")
        >>> memory = sidtool.build_memory(split, sidtool.open_bundle("shop.zarr"))
        >>> memory.save("memory.zarr")
    """
    check_memory_split(bundle, split)
    before = None if earlier is None else earlier.memory.manifest
    if settings is None:
        settings = DEFAULT if before is None else before.settings
    if before is not None and before.settings == settings:
        tuned_on = before.tuned_on
        if tuned_on is not None:
            used = "the split of the memory"
            check_split("the tuned earlier memory", before.split, used, split.reference)
    if earlier is not None and shards is not None:
        raise UsageError(
            "an update holds all pairs in memory: it takes no memory budget",
            hint="build the memory anew within the budget",
        )
    ids = list(bundle.items.ids)
    sequences = item_sequences(split, ids)
    events = count_events(sequences, len(ids))
    by_content = None
    if content is not None:
        by_content = content_similarity(content.nearest, content.settings.weight, events)
    if shards is None:
        counted = _counted_pairs(earlier, split, sequences, bundle, settings)
        pairs = SparseRows.of(counted, np.int64)
        similarity = similarity_of(counted, events, settings, by_content)
        neighbors = SparseRows.of(similarity, np.float32)
    else:
        pairs, neighbors = sharded_rows(sequences, events, settings, shards, by_content)
    if not len(pairs.items):
        raise DataError(
            f"no two of the {len(ids)} items co-occur in the training events of split "
            f"{split.reference}",
            hint="do the item ids of the events match the bundle's?",
        )
    manifest = MemoryManifest(
        bundle=bundle.identity,
        split=split.reference,
        train_digest=split.train_digest,
        train_events=split.counts.train_events,
        window=WINDOW,
        settings=settings,
        items=len(ids),
        digest="",
        content=None if content is None else content.settings,
        tuned_on=tuned_on,
        libraries=library_versions("numpy", "scipy"),
        created=now(),
    )
    nearest = None if content is None else SparseRows.of(content.nearest, np.float32)
    return Memory.of(manifest, bundle.items.ids, events, pairs, neighbors, nearest)


def rebuild_memory(
    memory: Memory, split: Split, bundle: Bundle, vectors: Vectors | None = None
) -> Memory:
    """The memory of another split and bundle, with the settings of an earlier memory.

    Raises UsageError if that compared the items' vectors, the bundle is another one, and (n, dim)
    `vectors` are not given, or if they are and it compared none."""
    manifest = memory.manifest
    content = None
    if vectors is not None and (manifest.content is None or manifest.content.source == "codes"):
        raise UsageError(
            "the memory compares no vectors: --embeddings would have no effect",
            hint="sidtool build-memory --embeddings, then tune-memory",
        )
    if manifest.content is not None:
        content = content_of(memory, bundle, vectors)
    return build_memory(
        split, bundle, manifest.settings, content=content, tuned_on=manifest.tuned_on
    )


def content_of(memory: Memory, bundle: Bundle, vectors: Vectors | None = None) -> ItemContent:
    """The content of a bundle's items, compared as a memory that has content compared its own.

    Raises UsageError if that needs the items' vectors, and they are not given."""
    settings = memory.manifest.content
    stored = memory.content
    assert settings is not None
    assert stored is not None
    is_same = memory.manifest.bundle.digest == bundle.identity.digest
    if is_same and (vectors is None or settings.source == "codes"):
        memory.check_bundle(bundle)
        return ItemContent(stored.to_scipy(), settings)
    if settings.source == "codes":
        return ItemContent.of(bundle, weight=settings.weight)
    if vectors is None:
        raise UsageError(
            "the earlier memory compares the items' vectors, and the bundle has other items",
            hint="--embeddings FILE, once per source of the bundle",
        )
    return ItemContent.of(bundle, vectors, settings.weight)


def _counted_pairs(
    earlier: EarlierMemory | None,
    split: Split,
    sequences: Sequences,
    bundle: Bundle,
    settings: KnnSettings,
) -> Any:
    """(n, n) CSR int64 as `count_pairs`."""
    if earlier is None:
        return count_pairs(sequences, len(bundle.items), settings.distance)
    return _updated_pairs(earlier, split, sequences, bundle, settings)


def _updated_pairs(
    earlier: EarlierMemory,
    split: Split,
    sequences: Sequences,
    bundle: Bundle,
    settings: KnnSettings,
) -> Any:
    """(n, n) CSR int64: the earlier counts, less those of users whose events changed, plus what
    these users' events count now."""
    from scipy import sparse

    memory = earlier.memory
    counted = memory.manifest.settings.distance
    if settings.distance != counted:
        raise UsageError(
            f"the earlier memory counts with distance {counted}, not {settings.distance}",
            hint="build the memory anew for another distance",
        )
    earlier_ids = list(memory.ids)
    row_of = bundle.items.rows(earlier_ids)  # of each earlier item, -1 if the bundle lacks it
    earlier_sequences = item_sequences(earlier.split, earlier_ids)
    removed, added = _changed(earlier, split, earlier_sequences, sequences, row_of)
    unchanged = memory.pairs.to_scipy() - count_pairs(removed, len(earlier_ids), counted)
    unchanged.eliminate_zeros()
    entries = unchanged.tocoo()
    before = row_of[entries.row]
    after = row_of[entries.col]
    if (entries.data < 0).any() or (before < 0).any() or (after < 0).any():
        raise IntegrityError(
            "the earlier memory counts other pairs than the earlier split has",
            hint="build the memory anew",
        )
    n = len(bundle.items)
    moved = sparse.csr_matrix((entries.data, (before, after)), shape=(n, n))
    return add_pairs(moved, count_pairs(added, n, counted))


def _changed(
    earlier: EarlierMemory,
    split: Split,
    earlier_sequences: Sequences,
    sequences: Sequences,
    row_of: NDArray[np.int64],
) -> tuple[Sequences, Sequences]:
    """The sequences before and after of each user whose events differ."""
    nothing = np.zeros(0, dtype=np.int64)
    before = _by_user(earlier.split, earlier_sequences)
    after = _by_user(split, sequences)
    removed = []
    added = []
    for user in before.keys() | after.keys():
        old = before.get(user, nothing)
        new = after.get(user, nothing)
        if not np.array_equal(row_of[old], new):
            removed.append(old)
            added.append(new)
    return removed, added


def _by_user(split: Split, sequences: Sequences) -> dict[str, NDArray[np.int64]]:
    users = (sequence.user for sequence in split.train)
    return dict(zip(users, sequences, strict=True))
