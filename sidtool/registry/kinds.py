"""What differs between the kinds of artifact that a registry holds: bundles and memories."""

from sidtool.bundle.integrity import verify
from sidtool.bundle.manifest import Manifest
from sidtool.bundle.zarr_group import Kind, parse_root, read_root
from sidtool.memory.manifest import MemoryManifest
from sidtool.memory.memory import is_memory, verify_memory
from sidtool.storage.storage import Storage


def read_manifest(location: str) -> Manifest | MemoryManifest:
    """The manifest of a stored artifact. Raises as `Bundle.open` and `Memory.open` do."""
    if is_memory(location):
        return MemoryManifest.from_json(read_root(Storage(location), "memory"))
    return Manifest.from_json(read_root(Storage(location), "bundle"))


def parse_manifest(location: str, root: bytes, kind: Kind) -> Manifest | MemoryManifest:
    """The manifest in a root document. Raises as `parse_root` does."""
    value = parse_root(location, root, kind)
    return MemoryManifest.from_json(value) if kind == "memory" else Manifest.from_json(value)


def broken_parts(location: str) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored artifact: (object, reason); empty if it is intact."""
    return verify_memory(location) if is_memory(location) else verify(location)
