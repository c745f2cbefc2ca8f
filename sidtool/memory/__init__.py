"""The memory: which items co-occur and which have similar content, and its mixture with a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
