"""Where a service finds its model, bundle and memory, and which versions of them are there now."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.artifact import MAX_ROOT_BYTES
from sidtool.base.checkpoint import MAX_JSON
from sidtool.base.errors import DataError
from sidtool.base.hub import is_hub_url
from sidtool.base.storage import Storage
from sidtool.model import LoadedModel, check_model_folder, load_model_folder
from sidtool.recommendation.serve.serve_options import ServeOptions, Version
from sidtool.registry import ROOTS, Kind, locate_kind, locate_model, located, open_bundle
from sidtool.tokenizer.bundle import Bundle


@dataclass(frozen=True)
class Sources:
    """The locations of a service, and the folder for copies of published models."""

    options: ServeOptions
    copies: Path

    def version(self) -> Version:
        """What is at the locations now; reads the root documents only.

        Raises DataError if one of them cannot be read, UsageError if it is of another kind."""
        options = self.options
        memory = options.memory.location
        return Version(
            "" if is_hub_url(options.model) else _root_digest(options.model, "model"),
            "" if options.bundle is None else _root_digest(options.bundle, "bundle"),
            "" if memory is None else _root_digest(str(memory), "memory"),
        )

    def check_unchanged(self, version: Version) -> None:
        """Raise DataError unless this version is still there after it was read: a writer that came
        between would give it the digests of another. Raises as `version`."""
        if self.version() != version:
            raise DataError(
                "the model, bundle or memory was replaced while it was read", hint="start it again"
            )

    def check(self) -> None:
        """Check that everything is there, and that model and bundle fit together; reads no
        weights. Raises as `version` and `load`."""
        self.version()
        check_model_folder(self._model_folder(), self._bundle())

    def load(self) -> LoadedModel:
        """Load everything. Raises what `load_model_folder` and `open_bundle` raise."""
        options = self.options
        return load_model_folder(
            self._model_folder(),
            bundle=options.bundle,
            device=options.device,
            dtype=options.dtype,
            trust_remote_code=options.trust_remote_code,
            memory=options.memory,
        )

    def reload(self, loaded: LoadedModel, old: Version, new: Version) -> LoadedModel:
        """What is there now, with the network of `loaded` if only bundle or memory changed, after
        the checks of `load`. Raises as `load`."""
        if new.model != old.model:
            return self.load()
        memory = located(self.options.memory)
        return loaded.with_bundle(self._model_folder(), self._bundle(), memory)

    def _bundle(self) -> Bundle | None:
        return None if self.options.bundle is None else open_bundle(self.options.bundle)

    def _model_folder(self) -> str | Path:
        return locate_model(self.options.model, self.copies)

    def remove_copies(self, version: Version) -> None:
        """Remove the copies of models that are not this version: what they have is in memory."""
        if self.copies.is_dir():
            for path in self.copies.iterdir():
                if path.name != version.model:
                    shutil.rmtree(path, ignore_errors=True)


def _root_digest(reference: str, kind: Kind) -> str:
    """SHA-256 (hex) of the root document of what a reference or location names."""
    location, record = locate_kind(reference, kind)
    if record is not None:
        return record.root
    limit, hint = MAX_ROOT_BYTES, None
    if kind == "model":
        limit, hint = MAX_JSON, "sidtool serve MODEL, the folder of extend-model, train or rl"
    root = Storage(location).read(ROOTS[kind], limit=limit)
    if root is None:
        raise DataError(f"there is no {kind} at {location}", hint=hint)
    return hashlib.sha256(root).hexdigest()
