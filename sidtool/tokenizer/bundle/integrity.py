"""Verification of a stored bundle."""

from pathlib import Path

from sidtool.base.errors import IntegrityError
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.checks import broken_parts
from sidtool.tokenizer.bundle.zarr_group import ROOT


def verify(location: str | Path) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored bundle: (object, reason); empty if it is intact.

    Checks every stored object against its SHA-256, the manifest against its own, the values against
    the identity, the order of the rows, and the index. Raises DataError if there is no bundle.

    Examples:
        >>> sidtool.verify("shop.zarr")
        []
    """
    try:
        return broken_parts(Bundle.open(location), Storage(location))
    except IntegrityError as error:
        return [(ROOT, str(error))]
