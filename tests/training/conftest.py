"""The fixtures of training, for this room."""

from tests.training_fixtures import bundle, catalog, models, one_thread, rows, split

__all__ = ["bundle", "catalog", "models", "one_thread", "rows", "split"]
