"""Where a published model is on this machine, for what loads models."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.base.hub import is_hub_url
from sidtool.registry.kinds import read_manifest
from sidtool.registry.publish import pull
from sidtool.registry.records import Kind, VersionRecord
from sidtool.registry.references import check_published, locate, split_reference


def locate_model(reference: str | Path, copies: Path | None = None) -> str | Path:
    """The folder of the model that a reference names; any other location is returned unchanged. A
    model of a remote registry is copied into a folder of `copies`, or of one that is removed when
    the process ends. Raises UsageError if it is no model, and as `open_bundle` and `pull` do."""
    if is_hub_url(str(reference)):
        return reference
    location, record = locate_kind(str(reference), "model")
    if record is None:
        return reference
    if "://" not in location:
        check_published(location, read_manifest(location), record)
        return Path(location)
    copy = (copies or _copies_of_process()) / record.root
    if not copy.exists():
        # the version, since the tag may have moved
        pull(f"{split_reference(str(reference))[0]}@{record.version}", copy)
    return copy


def locate_kind(reference: str, kind: Kind) -> tuple[str, VersionRecord | None]:
    """As `locate`. Raises UsageError if what is published is of another kind."""
    location, record = locate(reference)
    if record is not None and record.kind != kind:
        raise UsageError(f"{reference} is a {record.kind}, not a {kind}")
    return location, record


@cache
def _copies_of_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sidtool-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
