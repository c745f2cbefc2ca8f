"""Foreign and messy data before it is read: a report of its problems, cleaning, and readers of
public data sets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
