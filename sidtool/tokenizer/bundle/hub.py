"""Bundles and memories in a repository of the Hugging Face hub: the objects of the Zarr group and a
card, in the repository itself or in one folder of it."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, get_args

from sidtool.base.artifact import describe
from sidtool.base.hub import (
    DEFAULT_ACCESS,
    HUB_PREFIX,
    HubAccess,
    HubCommit,
    HubPush,
    Pushable,
    check_signed_copy,
    download,
    fetch_roots,
    folder_or_url,
    is_hub_repository,
    only_folder,
    upload,
)
from sidtool.base.markdown import (
    front_matter,
    key_value_table,
    literal,
    model_index,
    shell_word,
    table,
    with_dataset,
)
from sidtool.base.signatures import SIGNATURE
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.manifest import Manifest, flat_record
from sidtool.tokenizer.bundle.zarr_group import ROOT, Kind, read_root

CARD = "README.md"


def download_group(
    name_or_path: str | Path, kind: Kind | None = None, access: HubAccess = DEFAULT_ACCESS
) -> Path:
    """The local folder of the one bundle or memory of a repository, ORG/NAME or a URL of the hub,
    or of a folder; any kind unless one is given. Nothing but its objects is downloaded. Raises
    DataError if there is none or the hub does not give it, IntegrityError if its root document is
    damaged, or not signed as it must be."""
    source = folder_or_url(name_or_path)
    copy, folders = fetch_roots(source, ROOT, access)
    wanted = [kind] if kind is not None else get_args(Kind)
    found = {
        folder: each
        for folder in folders
        for each in wanted
        if describe(copy / folder) == f"a {each}"
    }
    folder = only_folder(source, " or ".join(wanted), list(found))
    name = folder.rstrip("/") or f"{found[folder]}.zarr"
    check_signed_copy(
        source, access, copy, name, lambda: signed_objects(copy / folder, found[folder])
    )
    if not isinstance(source, Path):
        objects = read_root(Storage(copy / folder), found[folder])["objects"]
        # the commit, so that both downloads are of one version
        at_commit = replace(access, revision=copy.name)
        download(source.partition("@")[0], at_commit, allow=[folder + name for name in objects])
    return copy / folder


def signed_objects(folder: Path, kind: Kind) -> dict[str, str]:
    """The SHA-256 of every object of a bundle or memory, by its root document, and of that."""
    objects = read_root(Storage(folder), kind)["objects"]
    return {**objects, ROOT: hashlib.sha256((folder / ROOT).read_bytes()).hexdigest()}


class OnHub(Pushable):
    """A bundle or memory that the Hugging Face hub may have, by the conventions of its library."""

    kind: ClassVar[Kind]

    @classmethod
    @abstractmethod
    def open_verified(cls, location: str | Path, *, alone: bool = True) -> Self:
        """Open a stored one, with everything checked; unless it is `alone`, other files may be
        there, which nothing reads."""

    @abstractmethod
    def save(self, location: str | Path, *, force: bool = False) -> None:
        """Write a folder."""

    @abstractmethod
    def card(self, reference: str, license: str | None) -> str:
        """The card under which it is published as `reference`, URL/NAME@VERSION or a repository of
        the hub."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        signed_by: str | Path | None = None,
    ) -> Self:
        """Open one of the Hugging Face hub, `ORG/NAME`, or a folder that is a copy of a repository.

        It is the repository itself or one folder of it, such as the bundle in that of a model. Only
        its own objects go to the hub's cache, as HF_HOME, HF_TOKEN and HF_HUB_OFFLINE say, and all
        of them are checked as by `sidtool verify`. `signed_by` is a file of public keys or
        certificates in PEM, or `keyless:IDENTITY@ISSUER`. Raises DataError if there is none or the
        hub does not give it, IntegrityError if it is damaged, or not signed so."""
        access = HubAccess(revision, token, cache_dir, local_files_only, signed_by)
        folder = download_group(name_or_path, cls.kind, access)
        # a repository may have a card, pictures and other files beside them
        return cls.open_verified(folder, alone=False)

    def upload_to(self, url: str, license: str | None, push: HubPush) -> HubCommit:
        """As `Pushable.push_to_hub`, to the URL of a repository."""
        with TemporaryDirectory() as work:
            folder = Path(work) / f"{self.kind}.zarr"
            self.save(folder)
            files: dict[str, Path | bytes] = {
                path.relative_to(work).as_posix(): path
                for path in folder.rglob("*")
                if path.is_file()
            }
            files[CARD] = with_dataset(self.card(url, license), push.dataset).encode()
            signature = f"{folder.name}{SIGNATURE}"
            if push.signer is not None:
                digests = signed_objects(folder, self.kind)
                files[signature] = push.signer.sign(folder.name, digests)
            return upload(url, files, [folder.name, signature], push)


def bundle_card(manifest: Manifest, reference: str, license: str | None) -> str:
    """The card of a bundle that is published as `reference`: URL/NAME@VERSION or a repository of
    the hub. What is not known is left out of the metadata."""
    template = files("sidtool.tokenizer.bundle").joinpath("card.md").read_text(encoding="utf-8")
    name = manifest.name
    on_hub = is_hub_repository(reference)
    # the name and the URL are in code that readers copy: they must stay one string each
    pull = f"sidtool pull {shell_word(reference)} -o {shell_word(f'{name}.zarr')}"
    repository = json.dumps(reference.removeprefix(HUB_PREFIX))
    lineage = [
        (version.version, version.digest[:12], version.created or "-", version.change)
        for version in reversed(manifest.history)
    ]
    metrics: list[tuple[str, float]] = []
    if report := manifest.codebook_report:
        metrics = [
            ("reassigned", report.reassigned),
            ("residual_variance", report.residual_variance_assigned),
            *(
                (f"perplexity of level {number}", level.perplexity)
                for number, level in enumerate(report.levels, 1)
            ),
        ]
    return Template(template).substitute(
        front=front_matter(
            license=license,
            base_model=manifest.made_by.encoder.model,
            measured=model_index(name, "feature-extraction", metrics),
        ),
        name=literal(name),
        version=manifest.version,
        license=literal(license or "unknown"),
        items=manifest.items,
        sizes=manifest.space.spelled_sizes,
        example=manifest.space.spell([0] * manifest.space.levels),
        policy=manifest.collisions.policy,
        digest=manifest.identity.digest,
        created=literal(manifest.created or "unknown"),
        extra="hub" if on_hub else "s3",
        command=f"sidtool verify {shell_word(reference)}" if on_hub else pull,
        door="Bundle" if on_hub else "open_bundle",
        opening=f"Bundle.from_pretrained({repository})"
        if on_hub
        else f"open_bundle({json.dumps(reference)})",
        recipe=_record_table(manifest.recipe),
        report=_record_table(manifest.report),
        lineage=table(("version", "digest", "created", "change"), lineage),
    )


def _record_table(record: Mapping[str, Any] | None) -> str:
    return key_value_table(flat_record(record)) if record else "None."
