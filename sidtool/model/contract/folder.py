"""A model folder: how it is found and read, which folders an adapter folder needs, how a command
that makes one ends, and how one is verified and pushed to the Hugging Face hub."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from glob import escape
from pathlib import Path

from sidtool.base.artifact import describe
from sidtool.base.checkpoint import (
    CONFIG,
    EMBEDDED,
    LOADED,
    MAX_JSON,
    TEMPLATES,
    check_file,
    check_folder,
    model_digests,
    read_object,
    settings_digests,
    unlisted_files,
    weight_digests,
)
from sidtool.base.digests import cached_digest, file_digest
from sidtool.base.documents import sealed_text
from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    IntegrityError,
    RefusedError,
    SidtoolError,
    UsageError,
)
from sidtool.base.hub import (
    DEFAULT_ACCESS,
    HUB_PREFIX,
    HubAccess,
    HubCommit,
    HubPush,
    check_signed_copy,
    download,
    download_model,
    fetch_roots,
    hub_hint,
    hub_url,
    is_hub_url,
    only_folder,
    upload,
)
from sidtool.base.markdown import with_dataset
from sidtool.base.output import write_whole
from sidtool.base.signatures import SIGNATURE
from sidtool.base.storage import Storage
from sidtool.memory import verify_memory
from sidtool.model.contract.card import (
    MODEL_CARD,
    Validation,
    model_card,
    stored_card,
    summary,
    validations,
)
from sidtool.model.contract.compat import usable_items
from sidtool.model.contract.contract import BUNDLE_COPY, CONTRACT, MEMORY_COPY, Contract
from sidtool.model.contract.stage_record import ModelReference
from sidtool.model.contract.stored import REPOSITORY, StoredModel, located, parse_contract
from sidtool.tokenizer.bundle import ROOT, Bundle, signed_objects


def model_folder(
    location: str | Path, access: HubAccess = DEFAULT_ACCESS, *, trust_remote_code: bool = False
) -> Path:
    """The folder of a model. A model of the hub, `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`, is
    downloaded into the hub's cache, with its bundle and memory; it is the repository itself, or one
    folder of it.

    Raises UsageError for another URL, DataError if the hub does not give the model, IntegrityError
    unless a model with a contract is signed as it must be."""
    if isinstance(location, Path):
        _check_signed(location, location, "", access)
        return location
    if "://" in location and not is_hub_url(location):
        raise UsageError(
            f"{location} is not a folder of a model, and only {HUB_PREFIX} names one on the hub",
            hint=f"sidtool pull {location} -o FOLDER",
        )
    if not is_hub_url(location):
        return Path(location)
    copy, folders = fetch_roots(location, CONTRACT, access)
    if not folders:
        return download_model(location, access, trust_remote_code=trust_remote_code)
    folder = only_folder(location, "model", folders)
    # the commit, so that all downloads are of one version
    repository, access = location.partition("@")[0], replace(access, revision=copy.name)
    download_model(repository, access, folder=folder, trust_remote_code=trust_remote_code)
    parts = (f"{BUNDLE_COPY}/*", f"{MEMORY_COPY}/*", TEMPLATES)
    download(repository, access, allow=[escape(folder) + name for name in parts])
    _check_signed(location, copy, folder, access)
    return copy / folder


def _check_signed(source: str | Path, copy: Path, folder: str, access: HubAccess) -> None:
    def digests() -> dict[str, str]:
        return StoredModel.read(str(copy / folder)).signed_objects

    check_signed_copy(source, access, copy, folder.rstrip("/") or REPOSITORY, digests)


def read_contract(folder: Path) -> Contract:
    """The contract of a model folder.

    Raises DataError if there is no folder, CompatibilityError if it has no contract or a newer one,
    IntegrityError if the contract is damaged."""
    path = folder / CONTRACT
    kind = describe(folder)
    pull = f"sidtool pull {folder} -o DIR copies a published model"
    if kind is None and not folder.is_dir():
        hint = pull if "@" in folder.name else hub_hint(str(folder))
        raise DataError(f"there is no model folder at {folder}", hint=hint)
    if not path.is_file():
        embedded = read_embedded(folder)
        if embedded is not None:
            needed = embedded.identity.digest[:12]
            raise CompatibilityError(
                f"the model in {folder} was saved by another program, without its {CONTRACT} and "
                f"the bundle {needed}",
                hint=f"sidtool rebind {folder} BUNDLE -o NEW restores both",
            )
        models = sorted(path.parent for path in folder.glob(f"*/{CONTRACT}"))
        if models:
            names = ", ".join(map(str, models))
            raise CompatibilityError(
                f"{folder} is no model", hint=f"there are models in it: {names}"
            )
        base = folder if (folder / CONFIG).is_file() else "MODEL"
        extend = f"sidtool extend-model {base} BUNDLE -o NEW makes one"
        raise CompatibilityError(
            f"{folder} is {kind or 'a folder'}, not a model with a SID vocabulary: it has no "
            f"{CONTRACT}",
            hint=pull if kind == "a registry" else extend,
        )
    with path.open("rb") as stream:
        return parse_contract(str(path), stream.read(MAX_JSON + 1))


def read_embedded(folder: Path) -> Contract | None:
    """The copy of the contract in the configuration of a model folder; None if it has none. Raises
    DataError if the configuration is damaged, and as `parse_contract`."""
    path = folder / CONFIG
    value = read_object(path).get(EMBEDDED) if path.is_file() else None
    return located(str(path), value) if isinstance(value, Mapping) else None


def check_files(folder: Path, contract: Contract) -> None:
    """Raise IntegrityError unless the files of a model folder are those that its contract records;
    one of a version before 0.3 records none."""
    for name, recorded in contract.files.items():
        path = folder / name
        if not path.exists():
            raise IntegrityError(f"{path} is missing, {CONTRACT} lists it")
        check_file(path, folder, trust_remote_code=True)  # a reader of a pipe would wait
        actual = cached_digest(path)
        if actual != recorded:
            raise IntegrityError(
                f"{path} has digest {actual[:12]}, {CONTRACT} says {recorded[:12]}",
                hint="sidtool verify lists every broken file; make or pull the model again",
            )
    paths = [*folder.iterdir(), *folder.glob("*/*.jinja")] if contract.files else []
    names = [path.relative_to(folder).as_posix() for path in paths]
    for name in unlisted_files(names, contract.files):
        raise IntegrityError(f"{folder / name} would be loaded, but {CONTRACT} does not list it")


def open_bundle_copy(folder: Path, contract: Contract) -> Bundle:
    """The bundle inside a model folder, verified.

    Raises IntegrityError if it is damaged, CompatibilityError if it is not the contract's."""
    bundle = Bundle.open_verified(folder / BUNDLE_COPY)
    actual = bundle.identity.digest[:12]
    expected = contract.identity.digest[:12]
    if actual != expected:
        raise CompatibilityError(
            f"{folder / BUNDLE_COPY} is bundle {actual}, {CONTRACT} says {expected}",
            hint="put that bundle back; sidtool rebind writes a copy of the model with another one",
        )
    stored = bundle.space.to_json()
    for key, value in contract.space.to_json().items():
        if value != stored[key]:
            raise CompatibilityError(
                f"{folder / CONTRACT} has {key} {value!r}, its bundle copy has {stored[key]!r}"
            )
    return bundle


def inspect_model(folder: Path) -> tuple[Contract, dict[str, object], list[Validation]]:
    """The contract of a model folder, its `summary` and its `validations`. Raises as
    `read_contract` and `open_bundle_copy`."""
    contract = read_contract(folder)
    bundle = usable_items(open_bundle_copy(folder, contract), contract.tokens)
    return contract, summary(contract, bundle), validations(contract)


def with_bases(folder: Path, contract: Contract) -> list[tuple[Path, Contract]]:
    """A model folder and its contract behind the folder that its adapters change, that behind its
    own base, and so on: the first is a whole model. A base is located by path and verified by
    digest.

    Raises CompatibilityError if a base is missing, has changed or has other SID tokens."""
    chain = [(folder, contract)]
    while (reference := contract.base_folder) is not None:
        base = _find_base(folder, reference)
        if base.resolve() in [member.resolve() for member, _ in chain]:
            raise CompatibilityError(f"{folder} is an adapter whose base is itself")
        base_contract = read_contract(base)
        if base_contract.tokens != contract.tokens:
            raise CompatibilityError(
                f"{folder} has SID tokens from id {contract.token_start}, its base {base} has "
                f"others, from id {base_contract.token_start}, or in another order"
            )
        chain.insert(0, (base, base_contract))
        folder, contract = base, base_contract
    return chain


def _find_base(folder: Path, base: ModelReference) -> Path:
    """The base at its recorded path, or beside the adapter if both were moved together."""
    recorded = Path(base.path)
    for path in (recorded, folder.resolve().parent / recorded.name):
        if not path.is_dir():
            continue
        check_folder(path)
        # contracts of earlier versions record no other files
        has_files = not base.files or settings_digests(path) == base.files
        if weight_digests(path) == base.weights and has_files:
            return path
    problem = "has other weights or files" if recorded.is_dir() else "does not exist"
    raise CompatibilityError(
        f"{folder} is an adapter over {recorded}, which {problem}",
        hint="put that model there or beside the adapter; `sidtool merge` writes a model that "
        "needs no base",
    )


def copy_model(folder: Path, contract: Contract, target: Path) -> None:
    """Copy the files of a model folder, without its contract, into the folder `target`. Raises
    IntegrityError if the copies are not those that the contract records."""
    copy_files(folder, target, CONTRACT, "checkpoint-*")  # checkpoints have the old contract
    check_files(target, contract)


def copy_files(folder: Path, target: Path, *skipped: str) -> None:
    """Copy what a model folder has, but for names that match a pattern. Raises RefusedError for a
    link that leads outside of it or to a folder, DataError for what is no regular file."""

    def ignored(place: str, names: list[str]) -> set[str]:
        matching = shutil.ignore_patterns(*skipped)(place, names)
        for path in (Path(place, name) for name in names if name not in matching):
            if not path.is_dir():
                check_file(path, folder)
            elif path.is_symlink():
                raise RefusedError(f"{path} is a link to a folder", hint="remove it")
        return matching

    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=ignored)


def write_contract(folder: Path, contract: Contract, bundle: Bundle) -> Contract:
    """Complete a model folder: the bundle's copy, the model card, and sid.json last, so that a
    folder with a contract has its bundle. Returns the contract with the digests of the folder's
    files. config.json contains the contract, too, because it survives `save_pretrained`."""
    bundle.save(folder / BUNDLE_COPY, force=True)
    roots = [f"{name}/{ROOT}" for name in (BUNDLE_COPY, MEMORY_COPY) if (folder / name).is_dir()]
    digests = model_digests(folder) | {name: file_digest(folder / name) for name in roots}
    if (folder / CONFIG).is_file():
        del digests[CONFIG]
        embedded = replace(contract, files=digests).to_json()
        settings = read_object(folder / CONFIG) | {EMBEDDED: embedded}
        # as transformers spells it
        write_whole(folder / CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        digests[CONFIG] = file_digest(folder / CONFIG)
    stored = replace(contract, files=digests)
    write_whole(folder / MODEL_CARD, model_card(stored, bundle))
    write_whole(folder / CONTRACT, sealed_text(stored.to_json()))
    return stored


def refuse_base_as_output(out: Path, contract: Contract, *others: Path) -> None:
    """Raise UsageError if `out` is one of the bases of `contract`, or of `others`: nothing could
    load a model with these bases then."""
    bases = [path.resolve() for path in others]
    seen: set[Path] = set()
    with suppress(SidtoolError):  # a base that was moved or removed cannot be replaced
        while (reference := contract.base_folder) is not None:
            base = Path(reference.path).resolve()
            if base in seen:
                break
            seen.add(base)
            contract = read_contract(base)
    if out.resolve() in (*bases, *seen):
        raise UsageError(
            f"{out} is the base of adapters, which need it", hint="write to another path"
        )


def verify_model(location: str) -> list[tuple[str, str]]:
    """Everything that is wrong with a model folder: (file, reason); empty if it is intact. Checks
    every file against its SHA-256, and the values of bundle and memory. Raises DataError if there
    is no model, CompatibilityError if its sid.json is of another version of sidtool."""
    try:
        model = StoredModel.read(location)
    except IntegrityError as error:
        return [(CONTRACT, str(error))]
    broken = []
    storage = Storage(location)
    infos = storage.infos(model.objects)
    for name, digest in sorted(model.objects.items()):
        if name not in infos:
            broken.append((name, "missing"))
        elif storage.digest(name, int(infos[name]["size"])) != digest:
            broken.append((name, f"its SHA-256 differs from that in {CONTRACT}"))
    unlisted = unlisted_files(storage.listing(), model.objects)
    broken += [(name, f"it would be loaded, but {CONTRACT} does not list it") for name in unlisted]
    if not broken:
        bundle = Bundle.broken(f"{location}/{BUNDLE_COPY}")
        broken = [(f"{BUNDLE_COPY}/{name}", why) for name, why in bundle]
    if not broken and model.contract.memory is not None:
        memory = verify_memory(f"{location}/{MEMORY_COPY}")
        broken = [(f"{MEMORY_COPY}/{name}", why) for name, why in memory]
    return broken


def push_model(folder: Path, repo_id: str, license: str | None, push: HubPush) -> HubCommit:
    """Write the files of a verified model folder with its card to a repository of the Hugging Face
    hub, in one commit. Raises RefusedError if that has another kind of artifact, or if the model
    needs a base; DataError if the hub refuses."""
    model = StoredModel.read(str(folder))
    model.check_whole(folder)
    url = hub_url(repo_id)
    files: dict[str, Path | bytes] = {name: folder / name for name in [*model.objects, CONTRACT]}
    card = stored_card(model.contract, folder, url, license or model.contract.license)
    files[MODEL_CARD] = with_dataset(card, push.dataset).encode()
    if push.signer is not None:
        signed = {
            REPOSITORY: model.signed_objects,
            BUNDLE_COPY: signed_objects(folder / BUNDLE_COPY, "bundle"),
        }
        if model.contract.memory is not None:
            signed[MEMORY_COPY] = signed_objects(folder / MEMORY_COPY, "memory")
        for name, digests in signed.items():
            files[f"{name}{SIGNATURE}"] = push.signer.sign(name, digests)
    parts = [BUNDLE_COPY, MEMORY_COPY]
    signatures = [f"{name}{SIGNATURE}" for name in (REPOSITORY, *parts)]
    loaded = ["*.safetensors", *(pattern.partition("/")[0] for pattern in LOADED)]
    return upload(url, files, [*parts, *signatures, *loaded], push)
