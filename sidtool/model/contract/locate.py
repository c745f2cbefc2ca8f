"""Finds the folder of a model with a SID vocabulary: a path, or a model of the Hugging Face hub."""

from pathlib import Path

from sidtool.base.checkpoint import HUB_PREFIX, download, download_model, is_hub_url
from sidtool.base.errors import UsageError
from sidtool.model.contract.contract import BUNDLE_COPY, CONTRACT
from sidtool.model.contract.memory_binding import MEMORY_COPY


def model_folder(location: str | Path, *, trust_remote_code: bool = False) -> Path:
    """The folder of a model. A model of the hub, `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`, is
    downloaded into the hub's cache, with its bundle and memory.

    Raises UsageError for another URL, DataError if the hub does not give the model."""
    if isinstance(location, Path):
        return location
    if is_hub_url(location):
        return _download(location, trust_remote_code)
    if "://" in location:
        raise UsageError(
            f"{location} is not a folder of a model, and only {HUB_PREFIX} names one on the hub",
            hint=f"sidtool pull {location} -o FOLDER",
        )
    return Path(location)


def _download(url: str, trust_remote_code: bool) -> Path:
    folder = download_model(url, trust_remote_code=trust_remote_code)
    if (folder / CONTRACT).is_file():
        parts = [f"{BUNDLE_COPY}/*", f"{MEMORY_COPY}/*"]
        # the commit, so that both downloads are of one version
        repository = url.partition("@")[0]
        download(repository, revision=folder.name, allow=parts)
    return folder
