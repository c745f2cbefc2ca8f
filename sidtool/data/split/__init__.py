"""Split events into training, validation and test parts; the split artifact and its files."""
