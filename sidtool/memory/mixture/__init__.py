"""How a memory is mixed with a model: a distribution over items, its weight, and a re-ranker."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
