"""What is published: a bundle, memory or model that was checked."""

from dataclasses import dataclass

from sidtool.base.errors import IntegrityError, RefusedError
from sidtool.base.storage import Storage
from sidtool.model.contract import check_license
from sidtool.registry.kinds import AnyManifest, broken_parts, read_manifest
from sidtool.registry.references import check_published, locate
from sidtool.registry.stored_model import StoredModel


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
    the model's contract.

    Raises IntegrityError if it is damaged, RefusedError if a model needs a base."""
    check_license(license or "")
    location, record = locate(source)
    manifest = read_manifest(location)
    check_published(location, manifest, record)
    for name, reason in broken_parts(location):
        raise IntegrityError(
            f"{location}: {name}: {reason}", hint="sidtool verify lists every broken object"
        )
    if isinstance(manifest, StoredModel):
        _refuse_adapter(location, manifest)
        license = license or manifest.contract.license
    return Source(Storage(location), manifest, license)


def _refuse_adapter(location: str, model: StoredModel) -> None:
    """Raise RefusedError for adapters: their base is a folder of this machine."""
    base = model.contract.base_folder
    if base is not None:
        raise RefusedError(
            f"{location} has adapters, and needs the model {base.path}",
            hint=f"sidtool merge {location} -o MERGED writes a model that needs no base",
        )
