"""The artefact: codebook, item map and recipe in one Zarr group, with an identity and an integrity of its own."""

from sidtool.bundle.bundle import Bundle, verify
from sidtool.bundle.items import ItemMap

__all__ = ["Bundle", "ItemMap", "verify"]
