"""The artifact: codebook, item map and recipe in one Zarr group, and how it is stored."""

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.integrity import verify
from sidtool.bundle.item_map import ItemMap

__all__ = ["Bundle", "ItemMap", "verify"]
