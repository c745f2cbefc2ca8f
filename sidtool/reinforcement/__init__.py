"""A trained model and a split to a model trained further by rewards of its own recommendations."""
