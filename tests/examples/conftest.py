"""Fixtures shared with the tests of `training`."""

from tests.training_fixtures import bundle, catalog, examples, models, split

__all__ = ["bundle", "catalog", "examples", "models", "split"]
