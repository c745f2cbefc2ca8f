"""Copies of published versions on this machine: those of `pull`, and those that are loaded."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock

from sidtool.base.errors import IntegrityError, UsageError
from sidtool.base.hub import is_hub_url
from sidtool.base.inputs import keeps_inputs
from sidtool.base.output import new_dir, refuse_existing, whole_file
from sidtool.base.progress import Progress
from sidtool.base.signatures import SIGNATURE
from sidtool.base.storage import Storage, is_zip
from sidtool.registry import references
from sidtool.registry.kinds import OUTPUTS, published_card, read_manifest
from sidtool.registry.records import CARD, UNKNOWN_LICENSE, Kind, VersionRecord
from sidtool.registry.transfer import broken_parts, download
from sidtool.tokenizer.bundle import new_zip

_COPYING = Lock()
"""Held by the thread that copies a model, which others may want, too."""


@keeps_inputs()
def pull(
    reference: str | Path, out: str | Path, *, force: bool = False, progress: Progress | None = None
) -> VersionRecord:
    """Copy a published version to a folder or a .zip, byte for byte, and verify it. A model goes to
    a folder, and gets its card. The signature of a signed version is written beside the copy.

    An interrupted pull into a folder can be repeated and continues. Raises DataError if there is no
    such version, IntegrityError if the copy differs from what was published, UsageError if `out`
    exists and `force` is not given.

    Examples:
        >>> _ = sidtool.push("shop.zarr", "registry/shop")
        >>> sidtool.pull("registry/shop@1.0", "copy.zarr").version
        '1.0'
    """
    out = Path(out)
    registry, record = plan_pull(str(reference), out, force=force)
    source = registry.folder(record.group)
    output = (
        new_zip(out, force=force) if is_zip(out.name) else new_dir(out, force=force, resume=True)
    )
    with output as folder:
        download(source, record, folder, progress)
        for name, reason in broken_parts(str(folder)):
            raise IntegrityError(f"{source.location}: {name}: {reason}")
        manifest = read_manifest(str(folder))
        signature = references.read_signature(registry, record, manifest)
        beside = out.with_name(out.name + SIGNATURE)
        if signature is not None:
            with whole_file(beside) as partial:
                partial.write_bytes(signature)
        elif force and beside.is_file():
            beside.unlink()  # that of the version that is replaced
        if record.kind == "model":
            license = None if record.license == UNKNOWN_LICENSE else record.license
            text = published_card(str(folder), manifest, None, license)
            (folder / CARD).write_text(text, encoding="utf-8")
    return record


def plan_pull(reference: str, out: Path, *, force: bool = False) -> tuple[Storage, VersionRecord]:
    """The registry and the record of a version that can be pulled to `out`; writes nothing. Raises
    as `pull` does before it copies."""
    registry, record = references.find_version(reference)
    refuse_existing(out, force, OUTPUTS[record.kind])
    return registry, record


def locate_model(reference: str | Path, copies: Path | None = None) -> str | Path:
    """The folder of the model that a reference names; any other location is returned unchanged. A
    model of a remote registry is copied into a folder of `copies`, or of the process: that is
    `sidtool-models-…` in the system's temporary folder, and removed when the process exits, but not
    if a signal such as SIGTERM kills it. Raises UsageError if it is no model, and as `open_bundle`
    and `pull` do."""
    if is_hub_url(str(reference)):
        return reference
    location, record = locate_kind(str(reference), "model")
    if record is None:
        return reference
    if "://" not in location:
        references.check_published(location, read_manifest(location), record)
        return Path(location)
    with _COPYING:
        copy = (copies or _copies_of_process()) / record.root
        if not copy.exists():
            # the version, since the tag may have moved
            pull(f"{references.split_reference(str(reference))[0]}@{record.version}", copy)
    return copy


def with_version(reference: str) -> str:
    """The reference with the number of the version that it names now, for processes that open it
    when its tag may have moved; any other location, also one on the hub, is returned unchanged.
    Raises as `locate` does."""
    record = None if is_hub_url(reference) else references.locate(reference)[1]
    if record is None:
        return reference
    return f"{references.split_reference(reference)[0]}@{record.version}"


def locate_kind(reference: str, kind: Kind) -> tuple[str, VersionRecord | None]:
    """As `locate`. Raises UsageError if what is published is of another kind."""
    location, record = references.locate(reference)
    if record is not None and record.kind != kind:
        raise UsageError(f"{reference} is a {record.kind}, not a {kind}")
    return location, record


@cache
def _copies_of_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sidtool-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
