"""Vectors that another engine made, all at once or in parts that fit a memory budget.

Knows files of vectors and whose row is whose; knows nothing of what is done with them.
"""

from sidtool.vectors.files import open_vectors, read_vectors
from sidtool.vectors.source import VectorSource, check_finite

__all__ = ["VectorSource", "check_finite", "open_vectors", "read_vectors"]
