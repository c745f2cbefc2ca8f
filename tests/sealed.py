"""Stored documents that somebody changed, and signed again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.documents import SEAL, sealed_text


def reseal(path: Path, changes: Mapping[str, Any]) -> None:
    """Change keys of a document with its own digest, which then has that of the new values; a key
    whose value is ... is removed."""
    stored = {**json.loads(path.read_text(encoding="utf-8")), **changes, SEAL: ...}
    kept = {key: value for key, value in stored.items() if value is not ...}
    path.write_text(sealed_text(kept), encoding="utf-8")
