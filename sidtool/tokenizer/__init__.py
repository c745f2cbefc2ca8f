"""Which SID has an item: SID space, quantizers, assignment, texts to vectors, bundles."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
