"""Pretrained checkpoints as files: where they are, and what is checked before a library reads
them."""
