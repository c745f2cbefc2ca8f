"""What a model records about its tokenizer and its making, and what it may be combined with."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
