"""What is published, in a registry or on the hub: a bundle, memory or model that was checked."""

from dataclasses import dataclass
from pathlib import Path

from sidtool.base.checkpoint import HubCommit, upload
from sidtool.base.errors import IntegrityError, RefusedError, UsageError
from sidtool.base.storage import Storage
from sidtool.memory import Memory
from sidtool.model.contract import BUNDLE_COPY, CONTRACT, MEMORY_COPY, MODEL_CARD, check_license
from sidtool.registry.kinds import (
    AnyManifest,
    StoredModel,
    broken_parts,
    kind_of,
    published_card,
    read_manifest,
)
from sidtool.registry.references import check_published, locate
from sidtool.tokenizer.bundle import Bundle


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


def push_to_hub(source: Source, url: str, *, tag: str | None = None) -> HubCommit:
    """Write a checked artifact with its card to `hf://ORG/NAME`, in one commit. Raises as
    `Bundle.push_to_hub`, UsageError for a model that is not on this machine."""
    storage, model = source.storage, source.manifest
    if not isinstance(model, StoredModel):
        kind = Bundle if kind_of(model) == "bundle" else Memory
        opened = kind.open_verified(storage.location)
        return opened.push_to_hub(url, license=source.license, tag=tag)
    folder = storage.local_path
    if folder is None:
        raise UsageError(
            f"{storage.location} is not a folder of this machine",
            hint="sidtool pull it, and push the copy",
        )
    files: dict[str, Path | bytes] = {name: folder / name for name in [*model.objects, CONTRACT]}
    files[MODEL_CARD] = published_card(str(folder), model, url, source.license).encode()
    replaced = [BUNDLE_COPY, MEMORY_COPY, "*.safetensors", "*.safetensors.index.json"]
    return upload(url, files, replaced, tag=tag)
