"""The network of a language model: what it is made of, whole or divided, and what trains in it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
