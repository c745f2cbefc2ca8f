"""A small bundle, and one thread."""

from tests.model.conftest import bundle, one_thread

__all__ = ["bundle", "one_thread"]
