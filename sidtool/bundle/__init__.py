"""The artifact: codebook, item map and recipe in one Zarr group, with an identity and an integrity
of its own."""

from sidtool.bundle.bundle import Bundle, verify
from sidtool.bundle.item_map import ItemMap

__all__ = ["Bundle", "ItemMap", "verify"]
