"""Work over folders of Parquet, divided into shards that several processes work on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
