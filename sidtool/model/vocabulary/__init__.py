"""Token ids of semantic IDs, users and values of fields, and the tokenizer that has them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
