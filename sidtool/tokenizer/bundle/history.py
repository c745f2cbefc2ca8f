"""The versions of a bundle: what each one changed, and which came before."""

from dataclasses import dataclass
from typing import Literal

from sidtool.base.records import Count, Digest, JsonRecord, VersionNumber


@dataclass(frozen=True)
class BuildChange(JsonRecord):
    """A codebook was built, or a map was imported."""

    items: Count
    kind: Literal["build"] = "build"

    def __str__(self) -> str:
        return f"built with {self.items} items"


@dataclass(frozen=True)
class ItemsChange(JsonRecord):
    """Items were added or retired; no SID moved."""

    added: Count = 0
    restored: Count = 0
    """retired items that are active again"""
    retitled: Count = 0
    retired: Count = 0
    catalog: str | None = None
    """digest of the catalog of added items"""
    kind: Literal["items"] = "items"

    def __str__(self) -> str:
        names = ("added", "restored", "retitled", "retired")
        counts = [(getattr(self, name), name) for name in names]
        return ", ".join(f"{count} {name}" for count, name in counts if count)


@dataclass(frozen=True)
class AlignChange(JsonRecord):
    """A new codebook was renamed to agree with the previous version's SIDs.

    Raises TypeError unless before and after have one number per level."""

    of: str
    """identity of the new codebook's bundle before the renaming"""
    common: Count
    """items in both bundles"""
    before: tuple[Count, ...]
    """common items whose first 1, 2 ... levels agreed before the renaming"""
    after: tuple[Count, ...]
    kind: Literal["align"] = "align"

    def __post_init__(self) -> None:
        if not self.after or len(self.before) != len(self.after):
            raise TypeError("before and after have not one number per level")

    def __str__(self) -> str:
        return f"aligned {self.of[:12]}: {self.after[-1]} of {self.common} SIDs preserved"


Change = BuildChange | ItemsChange | AlignChange


@dataclass(frozen=True)
class Version(JsonRecord):
    """One version in the lineage of a bundle."""

    version: VersionNumber
    digest: Digest
    """the bundle's identity"""
    name: str
    created: str
    change: Change
