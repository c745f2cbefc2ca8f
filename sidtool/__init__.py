"""sidtool: the semantic-ID tokenizer of a generative recommender as a portable, versioned, verified
artifact.

Importing this package loads neither torch nor transformers; a bundle opens with numpy and zarr
alone."""

from sidtool.bundle.bundle import Bundle
from sidtool.errors import SidtoolError
from sidtool.registry.references import open_bundle
from sidtool.sid import SidSpace

__all__ = ["Bundle", "SidSpace", "SidtoolError", "__version__", "open_bundle"]
__version__ = "0.1.0"
