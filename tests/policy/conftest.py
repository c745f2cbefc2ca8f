"""Fixtures of a tiny shop, and of a model that was trained for a moment."""

from tests.training_fixtures import bundle, catalog, examples, models, one_thread, split
from tests.tuned_fixtures import made, tuned

__all__ = ["bundle", "catalog", "examples", "made", "models", "one_thread", "split", "tuned"]
