"""Chooses what a memory needs on validation users: its settings, weight, gate and re-ranker."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
