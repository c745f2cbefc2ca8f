"""The versions of a bundle: what each one changed, and which came before."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class BuildChange:
    """A codebook was built, or a map was imported."""

    kind: ClassVar[str] = "build"
    items: int

    def __str__(self) -> str:
        return f"built with {self.items} items"


@dataclass(frozen=True)
class ItemsChange:
    """Items were added or retired; no SID moved."""

    kind: ClassVar[str] = "items"
    added: int = 0
    restored: int = 0
    """retired items that are active again"""
    retitled: int = 0
    retired: int = 0
    catalog: str | None = None
    """digest of the catalog of added items"""

    def __str__(self) -> str:
        names = ("added", "restored", "retitled", "retired")
        counts = [(getattr(self, name), name) for name in names]
        return ", ".join(f"{count} {name}" for count, name in counts if count)


@dataclass(frozen=True)
class AlignChange:
    """A new codebook was renamed to agree with the previous version's SIDs."""

    kind: ClassVar[str] = "align"
    of: str
    """identity of the new codebook's bundle before the renaming"""
    common: int
    """items in both bundles"""
    before: tuple[int, ...]
    """common items whose first 1, 2 ... levels agreed before the renaming"""
    after: tuple[int, ...]

    def __str__(self) -> str:
        return f"aligned {self.of[:12]}: {self.after[-1]} of {self.common} SIDs preserved"


Change = BuildChange | ItemsChange | AlignChange

_KINDS: dict[str, type[Change]] = {
    kind.kind: kind for kind in (BuildChange, ItemsChange, AlignChange)
}


def change_to_json(change: Change) -> dict[str, Any]:
    """A change as it is stored."""
    value = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(change).items()}
    return {"kind": change.kind, **value}


def change_from_json(value: Mapping[str, Any]) -> Change:
    """A stored change; unknown keys are ignored. Raises KeyError for an unknown kind."""
    kind = _KINDS[value["kind"]]
    stored: dict[str, Any] = {
        f.name: tuple(value[f.name]) if isinstance(value[f.name], list) else value[f.name]
        for f in fields(kind)
        if f.name in value
    }
    return kind(**stored)


@dataclass(frozen=True)
class Version:
    """One version in the lineage of a bundle."""

    version: str
    digest: str
    """the bundle's identity"""
    name: str
    created: str
    change: Change

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored."""
        return asdict(self) | {"change": change_to_json(self.change)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Version":
        """A stored version; unknown keys are ignored."""
        stored = {f.name: value[f.name] for f in fields(cls)}
        return cls(**stored | {"change": change_from_json(value["change"])})
