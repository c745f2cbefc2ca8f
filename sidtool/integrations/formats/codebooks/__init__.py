"""Codebooks that other systems trained, read from their files as tensors alone."""
