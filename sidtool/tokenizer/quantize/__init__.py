"""Vectors -> codebook and codes: one file per method, and `methods`, which names them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
