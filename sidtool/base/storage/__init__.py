"""Named byte objects in a folder or a zip, on disk or at any URL, and conditional writes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
