"""Publish a bundle, memory or model as the files of a repository of the Hugging Face hub."""

from pathlib import Path

from sidtool.base.checkpoint import HubCommit, HubPush, upload
from sidtool.base.errors import UsageError
from sidtool.memory import Memory
from sidtool.model.contract import BUNDLE_COPY, CONTRACT, MEMORY_COPY, MODEL_CARD
from sidtool.registry.kinds import kind_of, published_card
from sidtool.registry.source import Source
from sidtool.registry.stored_model import StoredModel
from sidtool.tokenizer.bundle import Bundle


def push_to_hub(source: Source, url: str, *, tag: str | None = None) -> HubCommit:
    """Write a checked artifact with its card to `hf://ORG/NAME`, in one commit. Raises as
    `Bundle.push_to_hub`, UsageError for a model that is not on this machine."""
    location = source.storage.location
    if isinstance(source.manifest, StoredModel):
        return _push_model(source, source.manifest, url, tag)
    opened = (Bundle if kind_of(source.manifest) == "bundle" else Memory).open_verified(location)
    return opened.push_to_hub(url, license=source.license, tag=tag)


def _push_model(source: Source, model: StoredModel, url: str, tag: str | None) -> HubCommit:
    folder = source.storage.local_path
    if folder is None:
        raise UsageError(
            f"{source.storage.location} is not a folder of this machine",
            hint="sidtool pull it, and push the copy",
        )
    files: dict[str, Path | bytes] = {name: folder / name for name in [*model.objects, CONTRACT]}
    files[MODEL_CARD] = published_card(str(folder), model, url, source.license).encode()
    replaced = [BUNDLE_COPY, MEMORY_COPY, "*.safetensors", "*.safetensors.index.json"]
    return upload(url, files, replaced, HubPush(tag=tag))
