"""What is published, in a registry or on the hub: a bundle, memory or model that was checked."""

from dataclasses import dataclass

from sidtool.base.checkpoint import HubCommit, HubPush
from sidtool.base.errors import IntegrityError, RefusedError, UsageError
from sidtool.base.storage import Storage
from sidtool.memory import Memory, is_memory, verify_memory
from sidtool.model.contract import StoredModel, check_license, push_model, verify_model
from sidtool.registry.kinds import AnyManifest, is_model, kind_of, read_manifest
from sidtool.registry.references import check_published, locate
from sidtool.tokenizer.bundle import Bundle, verify


@dataclass(frozen=True)
class Source:
    """An intact artifact, and the license under which it is published, if it is known."""

    storage: Storage
    manifest: AnyManifest
    license: str | None

    @property
    def n_objects(self) -> int:
        """Objects of the artifact, the root document included."""
        return len(self.manifest.objects) + 1


def check_source(source: str, license: str | None) -> Source:
    """Check a bundle, memory or model (a path, URL or reference). The license is by default that of
    the model's contract. Raises IntegrityError if it is damaged, RefusedError if a model needs a
    base."""
    check_license(license or "")
    location, record = locate(source)
    manifest = read_manifest(location)
    check_published(location, manifest, record)
    for name, reason in broken_parts(location):
        raise IntegrityError(
            f"{location}: {name}: {reason}", hint="sidtool verify lists every broken object"
        )
    if isinstance(manifest, StoredModel):
        base = manifest.contract.base_folder
        if base is not None:  # a folder of this machine
            raise RefusedError(
                f"{location} has adapters, and needs the model {base.path}",
                hint=f"sidtool merge {location} -o MERGED writes a model that needs no base",
            )
        license = license or manifest.contract.license
    return Source(Storage(location), manifest, license)


def push_to_hub(source: Source, url: str, push: HubPush) -> HubCommit:
    """Write a checked artifact with its card to `hf://ORG/NAME`, in one commit. Raises as
    `Bundle.push_to_hub`, UsageError for a model that is not on this machine."""
    storage = source.storage
    kind = kind_of(source.manifest)
    if kind != "model":
        opened = (Bundle if kind == "bundle" else Memory).open_verified(storage.location)
        return opened.upload_to(url, source.license, push)
    if storage.local_path is None:
        raise UsageError(
            f"{storage.location} is not a folder of this machine",
            hint="sidtool pull it, and push the copy",
        )
    return push_model(storage.local_path, url, source.license, push)


def broken_parts(location: str) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored artifact: (object, reason); empty if it is intact."""
    if is_model(location):
        return verify_model(location)
    return verify_memory(location) if is_memory(location) else verify(location)
