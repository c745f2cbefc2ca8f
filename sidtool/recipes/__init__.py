"""From two files to a verdict: recipes as data, and steps that resume."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
