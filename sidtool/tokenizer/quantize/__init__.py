"""Vectors -> codebook and codes: one file per method, and `methods`, which names them."""
