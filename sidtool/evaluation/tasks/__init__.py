"""Questions of one task to a model, and how many of its answers are correct."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
