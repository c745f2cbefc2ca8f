"""Untrained models: presets of their shape, and a tokenizer trained on the catalog's text."""
