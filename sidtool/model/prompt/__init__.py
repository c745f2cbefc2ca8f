"""Prompts: templates as data, assembly for training and serving, and token ids."""
