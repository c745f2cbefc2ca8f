"""A sentence-transformers model as an encoder of texts, and what identifies it."""
