"""The artifact: codebook, item map and recipe in one Zarr group, and how it is stored."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
