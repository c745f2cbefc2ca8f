"""The memory as a value, and its storage: a sparse item-item matrix in a Zarr group.

docs/format.md specifies the format."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import hash_array
from sidtool.base.documents import canonical
from sidtool.base.errors import CompatibilityError, IntegrityError, SidtoolError
from sidtool.base.hub import is_hub_repository
from sidtool.base.markdown import front_matter, key_value_table, literal, shell_word
from sidtool.base.output_name import MEMORY
from sidtool.base.storage import Storage, package
from sidtool.memory.manifest import MemoryManifest
from sidtool.memory.rows import SparseRows
from sidtool.tokenizer.bundle import (
    Bundle,
    Expected,
    StoredGroup,
    StringArray,
    flat_record,
    read_root,
)


class Memory(StoredGroup):
    """Which items co-occur in the training events of a split, by the items of a bundle. Arrays of a
    stored memory are read when they are first used."""

    kind = "memory"
    output = MEMORY
    manifest: MemoryManifest

    def __repr__(self) -> str:
        """Number of items and digest; reads no array."""
        return f"<Memory of {self.manifest.items} items, {self.digest[:12]}>"

    @staticmethod
    def parse(value: Mapping[str, Any]) -> tuple[MemoryManifest, dict[str, Expected]]:
        """The manifest in a JSON object, with type and shape of the arrays."""
        manifest = MemoryManifest.from_json(value)
        return manifest, _layout(manifest)

    @classmethod
    def open_verified(cls, location: str | Path, *, alone: bool = True) -> Self:
        """Open a memory for use. Every object and value is checked, but not that the similarities
        are those of the pairs, which takes as long as building the memory. Unless it is `alone`,
        other files may be there. Raises IntegrityError if it is damaged."""
        super().open_verified(location, alone=alone)
        return cls.open(location)  # without the arrays that only the check reads

    @classmethod
    def of(
        cls,
        manifest: MemoryManifest,
        ids: StringArray,
        events: NDArray[np.int64],
        pairs: SparseRows,
        neighbors: SparseRows,
        content: SparseRows | None = None,
    ) -> "Memory":
        """A memory in memory, whose digest is computed. There is `content` if the manifest says how
        it was made."""
        arrays: dict[str, NDArray[Any]] = {
            "items/id_bytes": ids.data,
            "items/id_offset": ids.offsets,
            "items/events": events,
        }
        for name, rows in (("pairs", pairs), ("neighbors", neighbors), ("content", content)):
            if rows is not None:
                arrays[f"{name}/offset"] = rows.offsets
                arrays[f"{name}/item"] = rows.items
                arrays[f"{name}/weight"] = rows.weights
        return cls(replace(manifest, digest=_digest(manifest, arrays)), arrays)

    @property
    def digest(self) -> str:
        """SHA-256 over the values, and over what they were made from."""
        return self.manifest.digest

    @cached_property
    def ids(self) -> StringArray:
        """The ids of the n items, in the order of the bundle's rows."""
        data = self.arrays["items/id_bytes"]
        offsets = self.arrays["items/id_offset"]
        return StringArray.stored("items/id", data, offsets)

    @cached_property
    def events(self) -> NDArray[np.int64]:
        """(n,): training events of each item."""
        events = self.arrays["items/events"]
        total = self.manifest.train_events
        if (events < 0).any() or (events > total).any() or events.sum() > total:
            raise IntegrityError(f"items/events do not add up to at most {total} training events")
        return events

    @cached_property
    def pairs(self) -> SparseRows:
        """Counts of co-occurrence, int64 in units of 2 ** -40: the row is the earlier item."""
        return self._rows("pairs")

    @cached_property
    def neighbors(self) -> SparseRows:
        """The items most similar to each item in a history, float32."""
        return self._rows("neighbors")

    @cached_property
    def content(self) -> SparseRows | None:
        """Powers of cosines above the diagonal, float32; None if content was not compared."""
        return None if self.manifest.content is None else self._rows("content")

    def _rows(self, name: str) -> SparseRows:
        parts = (self.arrays[f"{name}/{part}"] for part in ("offset", "item", "weight"))
        rows = SparseRows(*parts)
        offsets = rows.offsets
        ends = offsets[0] == 0 and offsets[-1] == len(rows.items) == len(rows.weights)
        if not ends or (offsets[1:] < offsets[:-1]).any():
            raise IntegrityError(f"{name}/offset does not divide {name}/item into rows")
        if len(rows.items) and int(rows.items.max()) >= self.manifest.items:
            raise IntegrityError(
                f"{name}/item has item {int(rows.items.max())} of {self.manifest.items}"
            )
        if not ((rows.weights > 0) & np.isfinite(rows.weights)).all():
            raise IntegrityError(f"{name}/weight has a weight that is not a positive number")
        falls = np.flatnonzero(rows.items[1:] <= rows.items[:-1]) + 1
        if not np.isin(falls, offsets).all():
            raise IntegrityError(f"{name}/item: the items of a row do not ascend")
        return rows

    def check_bundle(self, bundle: Bundle) -> None:
        """Raise CompatibilityError unless `bundle` is the memory's, or a later version of it."""
        digest = self.manifest.bundle.digest
        if digest == bundle.identity.digest:
            ids = bundle.items.ids
            same_bytes = np.array_equal(self.ids.data, ids.data)
            if not same_bytes or not np.array_equal(self.ids.offsets, ids.offsets):
                raise CompatibilityError(
                    f"the memory has other items than its bundle {digest[:12]}",
                    hint="build the memory with this bundle: sidtool build-memory",
                )
        elif digest not in (version.digest for version in bundle.manifest.history):
            raise CompatibilityError(
                f"the memory was built for bundle {digest[:12]}, bundle {bundle.manifest.name!r} "
                f"is {bundle.identity.digest[:12]} and no later version of it",
                hint="use the memory's bundle (--bundle, or before tune-memory sidtool rebind), or "
                "build the memory with this one: sidtool build-memory",
            )

    def broken_values(self) -> list[tuple[str, str]]:
        """What is wrong with the arrays and the digest over them: (object, reason)."""
        for name in ("ids", "events", "pairs", "neighbors", "content"):
            getattr(self, name)  # each checks its arrays
        digest = _digest(self.manifest, self.arrays)
        if digest == self.digest:
            return []
        return [
            ("values", f"values have digest {digest[:12]}…, the manifest says {self.digest[:12]}…")
        ]

    def card(self, reference: str, license: str | None) -> str:
        """The card of the memory as it is published, in Markdown."""
        return memory_card(self.manifest, reference, license)


def is_memory(location: str | Path) -> bool:
    """Whether there is a memory with an intact root document; nothing else is read."""
    try:
        read_root(Storage(location), "memory")
    except SidtoolError:
        return False
    return True


def _digest(manifest: MemoryManifest, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(canonical(manifest.source))
    for name in sorted(_layout(manifest)):
        hash_array(digest, name, arrays[name])
    return digest.hexdigest()


def _layout(manifest: MemoryManifest) -> dict[str, Expected]:
    """Type and shape of the arrays of a memory."""
    n = manifest.items
    layout: dict[str, Expected] = {
        "items/id_bytes": ("uint8", (None,)),
        "items/id_offset": ("int64", (n + 1,)),
        "items/events": ("int64", (n,)),
    }
    weights = {"pairs": "int64", "neighbors": "float32"}
    if manifest.content is not None:
        weights["content"] = "float32"
    for name, dtype in weights.items():
        layout[f"{name}/offset"] = ("int64", (n + 1,))
        layout[f"{name}/item"] = ("uint32", (None,))
        layout[f"{name}/weight"] = (dtype, (None,))
    return layout


def memory_card(manifest: MemoryManifest, reference: str, license: str | None) -> str:
    """The card of a memory that is published as `reference`: URL/NAME@VERSION or a repository of
    the hub."""
    name, _, version = reference.rpartition("/")[2].partition("@")
    on_hub = is_hub_repository(reference)
    settings: dict[str, Any] = {"split": str(manifest.split), **manifest.settings.to_json()}
    if manifest.content is not None:
        settings["content"] = manifest.content.to_json()
    pull = f"sidtool pull {shell_word(reference)} -o {shell_word(f'{name}.zarr')}"
    template = files("sidtool.memory").joinpath("card.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        front=front_matter(license=license, base_model=None),
        name=literal(name),
        version=version,
        license=literal(license or "unknown"),
        items=manifest.items,
        bundle=manifest.bundle.digest,
        events=manifest.train_events,
        digest=manifest.digest,
        created=literal(manifest.created or "unknown"),
        package=package(reference),
        reference=shell_word(reference),
        command=f"sidtool verify {shell_word(reference)}" if on_hub else pull,
        settings=key_value_table(flat_record(settings)),
    )
