"""Stored documents that somebody changed, and signed again."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.documents import SEAL, sealed_text
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.zarr_arrays import GroupManifest
from sidtool.tokenizer.bundle.zarr_group import ROOT, spell_root


def reseal(path: Path, changes: Mapping[str, Any]) -> None:
    """Change keys of a document with its own digest, which then has that of the new values; a key
    whose value is ... is removed."""
    stored = {**json.loads(path.read_text(encoding="utf-8")), **changes, SEAL: ...}
    members = {key: value for key, value in stored.items() if value is not ...}
    path.write_text(sealed_text(members), encoding="utf-8")


def reseal_group(folder: Path, manifest: GroupManifest) -> None:
    """Write the root document of a folder whose objects somebody changed."""
    stored = {name: data for name, data in Storage(folder).read_all() if name != ROOT}
    objects = {name: hashlib.sha256(data).hexdigest() for name, data in stored.items()}
    (folder / ROOT).write_bytes(spell_root(manifest.to_json() | {"objects": objects}))
