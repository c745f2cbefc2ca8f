"""Versions of bundles, memories and models at any URL: references, publishing, tags and cards."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
