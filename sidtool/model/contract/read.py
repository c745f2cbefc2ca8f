"""Reads the contract of a model folder, and the copy of the bundle beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.artifact import describe
from sidtool.base.checkpoint import CONFIG, MAX_JSON, check_file
from sidtool.base.digests import cached_digest
from sidtool.base.documents import check_seal, parse_json
from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, RefusedError
from sidtool.model.contract.contract import BUNDLE_COPY, CONTRACT, Contract
from sidtool.model.contract.embedded import embedded_contract
from sidtool.tokenizer.bundle import Bundle, open_verified_bundle


def read_contract(folder: Path) -> Contract:
    """The contract of a model folder.

    Raises DataError if there is no folder, CompatibilityError if it has no contract or a newer one,
    IntegrityError if the contract is damaged."""
    path = folder / CONTRACT
    kind = describe(folder)
    if kind is None and not folder.is_dir():
        raise DataError(f"there is no model folder at {folder}")
    if not path.is_file():
        embedded = read_embedded(folder)
        if embedded is not None:
            needed = embedded.identity.digest[:12]
            raise CompatibilityError(
                f"the model in {folder} was saved by another program, without its {CONTRACT} and "
                f"the bundle {needed}",
                hint=f"sidtool rebind {folder} BUNDLE -o NEW restores both",
            )
        base = folder if (folder / CONFIG).is_file() else "MODEL"
        raise CompatibilityError(
            f"{folder} is {kind or 'a folder'}, not a model with a SID vocabulary: it has no "
            f"{CONTRACT}",
            hint=f"sidtool extend-model {base} BUNDLE -o NEW makes one",
        )
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"{path.stat().st_size} bytes")
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error
    return parse_contract(str(path), path.read_bytes())


def read_embedded(folder: Path) -> Contract | None:
    """The copy of the contract in the configuration of a model folder; None if it has none. Raises
    DataError if the configuration is damaged, and as `parse_contract`."""
    value = embedded_contract(folder)
    return None if value is None else _located(f"{folder / CONFIG}", value)


def parse_contract(location: str, data: bytes) -> Contract:
    """The contract in the bytes of a sid.json. Raises CompatibilityError for a newer format,
    IntegrityError if it is damaged; both name the location."""
    try:
        value = parse_json(data)
    except ValueError as error:
        raise IntegrityError(f"{location} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{location} is damaged: it has no JSON object")
    contract = _located(location, value)
    try:
        check_seal(value)
    except ValueError as error:
        raise IntegrityError(f"{location} is damaged: {error}") from error
    return contract


def _located(location: str, value: Mapping[str, Any]) -> Contract:
    """The contract of a JSON object; errors name the location."""
    try:
        return Contract.from_json(value)
    except RefusedError as error:
        raise type(error)(f"{location}: {error}", hint=error.hint) from error


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


def open_bundle_copy(folder: Path, contract: Contract) -> Bundle:
    """The bundle inside a model folder, verified.

    Raises IntegrityError if it is damaged, CompatibilityError if it is not the contract's."""
    bundle = open_verified_bundle(folder / BUNDLE_COPY)
    actual = bundle.identity.digest[:12]
    expected = contract.identity.digest[:12]
    if actual != expected:
        raise CompatibilityError(
            f"{folder / BUNDLE_COPY} is bundle {actual}, {CONTRACT} says {expected}"
        )
    stored = bundle.space.to_json()
    for key, value in contract.space.to_json().items():
        if value != stored[key]:
            raise CompatibilityError(
                f"{folder / CONTRACT} has {key} {value!r}, its bundle copy has {stored[key]!r}"
            )
    return bundle
