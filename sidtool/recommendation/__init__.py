"""Requests and answers: prompts of histories and texts to ranked items."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
