"""Pretrained checkpoints as files: where they are, and what is checked before a library reads
them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
