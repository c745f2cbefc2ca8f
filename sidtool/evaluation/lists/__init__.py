"""Evaluation of lists: metrics of a list as a whole, over held-out sessions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
