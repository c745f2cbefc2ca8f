"""Constrained beam search: a token tree over one cache, the trie of valid SIDs, and filters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
