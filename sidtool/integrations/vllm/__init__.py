"""The constraint inside other inference engines: vLLM samples and searches only valid SIDs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
