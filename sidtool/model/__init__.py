"""Language models with a SID vocabulary: tokens, embedding rows, and the contract that binds a
model to its bundle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
