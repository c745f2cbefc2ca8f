"""The versions of a bundle: what each one changed, and which came before."""

from dataclasses import dataclass
from typing import Literal

from sidtool.base.records import JsonRecord


@dataclass(frozen=True)
class BuildChange(JsonRecord):
    """A codebook was built, or a map was imported."""

    items: int
    kind: Literal["build"] = "build"

    def check(self) -> None:
        """Raise ValueError if a count is negative."""
        _check_counts(self.items)

    def __str__(self) -> str:
        return f"built with {self.items} items"


@dataclass(frozen=True)
class ItemsChange(JsonRecord):
    """Items were added or retired; no SID moved."""

    added: int = 0
    restored: int = 0
    """retired items that are active again"""
    retitled: int = 0
    retired: int = 0
    catalog: str | None = None
    """digest of the catalog of added items"""
    kind: Literal["items"] = "items"

    def check(self) -> None:
        """Raise ValueError if a count is negative."""
        _check_counts(self.added, self.restored, self.retitled, self.retired)

    def __str__(self) -> str:
        names = ("added", "restored", "retitled", "retired")
        counts = [(getattr(self, name), name) for name in names]
        return ", ".join(f"{count} {name}" for count, name in counts if count)


@dataclass(frozen=True)
class AlignChange(JsonRecord):
    """A new codebook was renamed to agree with the previous version's SIDs."""

    of: str
    """identity of the new codebook's bundle before the renaming"""
    common: int
    """items in both bundles"""
    before: tuple[int, ...]
    """common items whose first 1, 2 ... levels agreed before the renaming"""
    after: tuple[int, ...]
    kind: Literal["align"] = "align"

    def check(self) -> None:
        """Raise ValueError if a count is negative, or there are not as many before as after."""
        _check_counts(self.common, *self.before, *self.after)
        if not self.after or len(self.before) != len(self.after):
            raise ValueError("before and after have not one number per level")

    def __str__(self) -> str:
        return f"aligned {self.of[:12]}: {self.after[-1]} of {self.common} SIDs preserved"


Change = BuildChange | ItemsChange | AlignChange


@dataclass(frozen=True)
class Version(JsonRecord):
    """One version in the lineage of a bundle."""

    version: str
    digest: str
    """the bundle's identity"""
    name: str
    created: str
    change: Change


def _check_counts(*counts: int) -> None:
    if min(counts) < 0:
        raise ValueError(f"a change counts {min(counts)} items")
