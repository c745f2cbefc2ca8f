"""Publish versions of a bundle, a memory or a model at any fsspec URL: push and tag.

A version appears in this order: objects, root document, card and signatures, record, pointer. A
push that is killed before the record leaves nothing that a reference resolves to; repeating it
sends what is missing."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from sidtool.base.artifact import MAX_ROOT_BYTES
from sidtool.base.errors import RefusedError, UsageError
from sidtool.base.hub import HubPush
from sidtool.base.markdown import names_dataset, with_dataset
from sidtool.base.output_name import check_parents
from sidtool.base.progress import Progress
from sidtool.base.signatures import Signer, Signers
from sidtool.base.storage import Storage
from sidtool.model.contract import CONTRACT
from sidtool.registry import records, references
from sidtool.registry.kinds import ROOTS, published_card, record_of
from sidtool.registry.records import CARD, POINTER, UNKNOWN_LICENSE, VersionRecord
from sidtool.registry.transfer import Source, check_source, push_to_hub, upload
from sidtool.tokenizer.bundle import ROOT


@dataclass(frozen=True)
class PushPlan:
    """A push that was checked: source, registry folder, and the record to publish."""

    source: Source
    registry: Storage
    record: VersionRecord


@dataclass(frozen=True)
class Pushed:
    """The result of a push."""

    url: str
    """of the published artifact"""
    version: str
    """its number, or the commit on the hub"""
    digest: str
    new: bool
    """False if this version was published before"""
    sent: int
    """objects that were sent; those of an interrupted push are not sent again"""
    latest: str | None
    """the latest version after the push; a repository of the hub has none"""


def plan_push(
    source: str,
    target: str,
    *,
    tag: str | None = None,
    license: str | None = None,
    dataset: str | None = None,
    sign: str | None = None,
) -> PushPlan:
    """Check that a bundle, memory or model (a path, URL or reference) can be pushed to URL/NAME;
    writes nothing.

    The version is that of the bundle; a memory or model gets the next one after the last published
    one, or that of the last one if it is the same (and `push` a later one if another push takes
    it). `license` is by default that of the model's contract, else unknown. Raises UsageError if
    the target cannot be a registry folder or the tag is not valid, IntegrityError if the source is
    damaged, RefusedError if the version of a bundle is published with another digest, the version
    with a card that does not name `dataset`, the folder has versions of another kind, a model needs
    a base, or a new version must be signed and `sign` is not given."""
    if tag is not None:
        records.check_tag(tag)
    registry = _registry_at(target)
    checked = check_source(source, license)
    manifest = checked.manifest
    root = checked.storage.read(ROOTS[manifest.kind]) or b""
    versions = records.list_versions(registry)
    record = record_of(
        manifest,
        hashlib.sha256(root).hexdigest(),
        checked.license or UNKNOWN_LICENSE,
        records.read_record(registry, versions[0]) if versions else None,
    )
    published = records.read_record(registry, record.version)
    if published is not None:
        records.refuse_other(registry, published, record)
        if dataset is not None:
            _check_dataset(registry, published, dataset)
        if sign is None and license not in (None, published.license):
            raise RefusedError(
                f"version {record.version} is published with license {published.license}, not with "
                f"{license}",
                hint="published versions never change: push another version, or omit the license",
            )
    elif sign is None and references.required_signers(registry):
        raise RefusedError(
            f"versions of {registry.location} must be signed", hint="push with --sign KEY"
        )
    return PushPlan(checked, registry, record)


def _check_dataset(registry: Storage, published: VersionRecord, dataset: str) -> None:
    card = registry.read(f"{published.folder}/{CARD}", limit=MAX_ROOT_BYTES) or b""
    if not names_dataset(card.decode("utf-8", "replace"), dataset):
        raise RefusedError(
            f"version {published.version} is published with a card that does not name the data set "
            f"{dataset}",
            hint="published versions never change: push another version, or omit the data set",
        )


def push(
    source: str | Path,
    target: str | Path,
    *,
    tag: str | None = None,
    license: str | None = None,
    dataset: str | None = None,
    sign: str | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Publish a bundle, memory or model (a path, URL or reference) as a version of URL/NAME, or as
    the files of the hub repository `hf://ORG/NAME`.

    Of a version that is published already only what the store lost or damaged is sent; the pointer
    and the tag are set in any case. `dataset` names the data that it was made from, for the card.
    `sign` is a file with a private key in PEM, which signs the version, or "keyless", if Sigstore
    is to sign for an identity; a version that was built again keeps the signature that the registry
    requires. Raises as `plan_push` and `Signer.of` do, IntegrityError if an object does not arrive
    as it was sent, DataError if the store fails.

    Examples:
        >>> pushed = sidtool.push("shop.zarr", "registry/shop", tag="prod", license="CC-BY-4.0")
        >>> pushed.version, pushed.new
        ('1.0', True)
    """
    source, target = str(source), str(target)
    signer = None if sign is None else Signer.of(sign)
    if references.is_flat_repository(target):
        checked = check_source(source, license)
        commit = push_to_hub(checked, target, HubPush(tag=tag, dataset=dataset, signer=signer))
        return Pushed(
            url=commit.url,
            version=commit.id,
            digest=checked.manifest.digest,
            new=commit.is_new,
            sent=commit.n_files,
            latest=None,
        )
    plan = plan_push(source, target, tag=tag, license=license, dataset=dataset, sign=sign)
    registry = plan.registry
    sent = 0
    while True:
        record, new = plan.record, False
        published = records.read_record(registry, record.version)
        if published is None:
            sent += _send_version(plan, dataset, signer, progress)
            published, new = records.publish_record(registry, record)
        elif published.root == record.root:  # the store may have lost or damaged some of it
            sent += upload(plan.source, registry.folder(record.group), record, progress)
        if published.digest == record.digest:
            break
        # another push took the number: a memory or model gets the next one
        records.refuse_other(registry, published, record)
        following = record_of(plan.source.manifest, record.root, record.license, published)
        plan = replace(plan, record=following)
    if signer is None or published != plan.record:
        is_other_license = license not in (None, published.license)
        if signer and (is_other_license or not references.required_signers(registry)):
            raise RefusedError(
                f"version {published.version} is published with another root document or license, "
                "so it is not signed",
                hint="pull the version and push that, with the same license",
            )
        references.check_version(registry, published)  # readers refuse one that is not signed
    elif not new:  # published before, and this one to the byte
        registry.put(references.make_signatures(registry, published, plan.source.manifest, signer))
    pointer = records.update_pointer(
        registry, lambda current: current.with_version(record.version, tag)
    )
    return Pushed(
        url=registry.folder(published.group).location,
        version=record.version,
        digest=record.digest,
        new=new,
        sent=sent,
        latest=pointer.latest,
    )


def tag(reference: str | Path, name: str) -> VersionRecord:
    """Point a tag at a published version; an existing tag moves.

    Raises UsageError if the reference has no version or the tag is not valid, DataError if there is
    no such version.

    Examples:
        >>> _ = sidtool.push("shop.zarr", "registry/shop")
        >>> sidtool.tag("registry/shop@1.0", "prod").version
        '1.0'
    """
    records.check_tag(name)
    reference = str(reference)
    if references.split_reference(reference)[1] is None:
        raise UsageError(f"{reference} names no version", hint="sidtool tag URL/NAME@VERSION TAG")
    registry, record = references.find_version(reference)
    records.update_pointer(
        registry, lambda pointer: replace(pointer, tags={**pointer.tags, name: record.version})
    )
    return record


def policy(
    registry: str | Path, signed_by: str | Path | None = None, *, allow_unsigned: bool = False
) -> str | None:
    """Require that versions of URL/NAME are signed by one of the keys or certificates in a PEM
    file or by `keyless:IDENTITY@ISSUER`, or nothing any more; the text of the policy, None without
    one.

    `pull`, `recommend`, `serve` and every other command refuse a version that is not signed so.
    Raises UsageError if the file has no public key or certificate, and for both at once.

    Examples:
        >>> _ = sidtool.push("shop.zarr", "registry/shop")
        >>> sidtool.policy("registry/shop") is None
        True
    """
    if signed_by is not None and allow_unsigned:
        raise UsageError(
            "--signed-by requires a signature, --allow-unsigned none: give one of the two"
        )
    if references.is_flat_repository(str(registry)):
        raise UsageError(
            f"{registry} is a repository of the hub, which has no policy",
            hint="SIDTOOL_SIGNED_BY names who must have signed what is read from the hub",
        )
    storage = _registry_at(str(registry))
    if signed_by is not None:
        storage.put({references.POLICY: Signers.read(signed_by).text.encode()})
    elif allow_unsigned and storage.has(references.POLICY):
        storage.put({references.POLICY: b""})
    stored = references.read_policy(storage)
    return None if stored is None else stored.text


def _registry_at(target: str) -> Storage:
    """The registry folder URL/NAME. Raises UsageError if it cannot be one."""
    base, version = references.split_reference(target)
    if version is not None:
        raise UsageError(f"{target!r} names a version, not the folder", hint=f"give {base}")
    if base.endswith((".zarr", ".zip")):
        raise UsageError(
            f"{base!r} has the name of a bundle or memory, but the target is a folder of versions",
            hint="omit the suffix",
        )
    registry = Storage(base)
    if registry.local_path is not None:
        check_parents(registry.local_path)
    for root, kind in ((ROOT, "a Zarr group"), (CONTRACT, "a model")):
        if registry.has(root):
            raise UsageError(
                f"{base} is {kind}, not a folder of versions", hint="push to another name"
            )
    # a new registry around another one: no name below it could be pushed to again
    for name in [] if registry.has(POINTER) else registry.child_names(files=False):
        if registry.folder(name).has(POINTER):
            raise UsageError(
                f"{base} contains the registry {name}, so it is no folder of versions itself",
                hint=f"push to {base}/NAME",
            )
    return registry


def _send_version(
    plan: PushPlan, dataset: str | None, signer: Signer | None, progress: Progress | None
) -> int:
    """Send everything of a version except its record: objects, the root document, and then card and
    signatures, which depend on the license, so that no push that fails leaves them to another. The
    objects that were sent."""
    source, registry, record = plan.source, plan.registry, plan.record
    # where a registry on this machine lies is nobody's business, and it may move
    local = registry.local_path
    name = registry.full_url if local is None else local.name
    reference = f"{name}@{record.version}"
    card = published_card(source.storage.location, source.manifest, reference, source.license)
    beside = {f"{record.folder}/{CARD}": with_dataset(card, dataset).encode()}
    if signer is not None:  # before anything is stored: the signer may be refused
        beside.update(references.make_signatures(registry, record, source.manifest, signer))
    sent = upload(source, registry.folder(record.group), record, progress)
    if records.read_record(registry, record.version) is None:  # else they are of the other push
        registry.put(beside)
    return sent
