"""The artifact: codebook, item map and recipe in one Zarr group, and how it is stored."""

from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.integrity import verify
from sidtool.tokenizer.bundle.item_map import ItemMap

__all__ = ["Bundle", "ItemMap", "verify"]
