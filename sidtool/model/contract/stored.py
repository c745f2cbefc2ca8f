"""The files that a model folder must have, by its sid.json."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from sidtool.base.artifact import MAX_ROOT_BYTES
from sidtool.base.checkpoint import MAX_JSON
from sidtool.base.documents import check_seal, parse_json
from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, RefusedError
from sidtool.base.storage import Storage
from sidtool.memory import MemoryManifest
from sidtool.model.contract.contract import BUNDLE_COPY, CONTRACT, MEMORY_COPY, Contract
from sidtool.tokenizer.bundle import ROOT, Manifest, check_names, parse_root

REPOSITORY = "model"
"""The name under which the files of a model in a hub repository are signed."""


@dataclass(frozen=True)
class StoredModel:
    """What the files of a model folder must be. Training logs and the card are no part of it."""

    kind: ClassVar[Literal["model"]] = "model"
    contract: Contract
    bundle: Manifest
    """of the bundle inside"""
    objects: Mapping[str, str]
    """SHA-256 of every file except sid.json"""
    digest: str
    """SHA-256 of sid.json, which identifies the model"""

    @classmethod
    def read(cls, location: str) -> Self:
        """The record of a model folder at a path or URL. Raises as `parse`."""
        root = Storage(location).read(CONTRACT, limit=MAX_JSON)
        if root is None:
            raise DataError(f"there is no model at {location}")
        return cls.parse(location, root)

    @classmethod
    def parse(cls, location: str, root: bytes) -> Self:
        """The record of the model folder whose sid.json has these bytes. Raises IntegrityError if
        sid.json is damaged or the bundle or memory inside is not the recorded one,
        CompatibilityError if it records no digests, as contracts before 0.3."""
        contract = parse_contract(f"{location}/{CONTRACT}", root)
        if not contract.files:
            raise CompatibilityError(
                f"{location}/{CONTRACT} is of an earlier sidtool, without digests of the model's "
                "files",
                hint=f"sidtool rebind {location} {location}/{BUNDLE_COPY} -o NEW records them",
            )
        bundle = Manifest.from_json(_root_of(location, BUNDLE_COPY, contract, "bundle"))
        parts: list[tuple[str, Manifest | MemoryManifest, str]] = []
        parts.append((BUNDLE_COPY, bundle, contract.identity.digest))
        if contract.memory is not None:
            memory = MemoryManifest.from_json(_root_of(location, MEMORY_COPY, contract, "memory"))
            parts.append((MEMORY_COPY, memory, contract.memory.digest))
        objects = dict(contract.files)
        for part, manifest, recorded in parts:
            if manifest.digest != recorded:
                raise IntegrityError(
                    f"{location}/{part} has digest {manifest.digest[:12]}, the contract says "
                    f"{recorded[:12]}"
                )
            objects |= {f"{part}/{name}": digest for name, digest in manifest.objects.items()}
        if bundle.space != contract.space:
            raise IntegrityError(f"{location}/{BUNDLE_COPY} has another space than {CONTRACT}")
        try:
            check_names(objects)
        except ValueError as error:
            raise IntegrityError(f"{location}/{CONTRACT} is malformed: {error}") from error
        return cls(contract, bundle, objects, hashlib.sha256(root).hexdigest())

    @property
    def signed_objects(self) -> dict[str, str]:
        """SHA-256 of every file, sid.json included."""
        return {**self.objects, CONTRACT: self.digest}

    @property
    def items(self) -> int:
        """Items of the bundle, retired ones included."""
        return self.bundle.items

    def check_whole(self, location: object) -> None:
        """Raise RefusedError for adapters, whose base is another folder of this machine."""
        base = self.contract.base_folder
        if base is not None:
            raise RefusedError(
                f"{location} has adapters, and needs the model {base.path}",
                hint=f"sidtool merge {location} -o MERGED writes a model that needs no base",
            )


def parse_contract(location: str, data: bytes) -> Contract:
    """The contract in the bytes of a sid.json. Raises CompatibilityError for a newer format,
    IntegrityError if it is damaged; both name the location."""
    try:
        if len(data) > MAX_JSON:
            raise ValueError(f"it has more than {MAX_JSON} bytes")
        value = parse_json(data)
    except ValueError as error:
        raise IntegrityError(f"{location} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{location} is damaged: it has no JSON object")
    contract = located(location, value)
    try:
        check_seal(value)
    except ValueError as error:
        raise IntegrityError(f"{location} is damaged: {error}") from error
    return contract


def located(location: str, value: Mapping[str, Any]) -> Contract:
    """The contract of a JSON object; errors name the location."""
    try:
        return Contract.from_json(value)
    except RefusedError as error:
        raise type(error)(f"{location}: {error}", hint=error.shell_hint) from error


def _root_of(
    location: str, part: str, contract: Contract, kind: Literal["bundle", "memory"]
) -> Mapping[str, object]:
    """The manifest of the bundle or memory inside, as JSON, which the contract must record."""
    name = f"{part}/{ROOT}"
    data = Storage(location).read(name, limit=MAX_ROOT_BYTES)
    if data is None:
        raise IntegrityError(f"{location} has no {name}")
    if hashlib.sha256(data).hexdigest() != contract.files.get(name):
        raise IntegrityError(f"{location}/{name} is not the one that {CONTRACT} records")
    return parse_root(f"{location}/{part}", data, kind)
