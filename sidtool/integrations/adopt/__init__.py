"""Models that another system trained: their SID tokens, their prompts, and a contract for them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
