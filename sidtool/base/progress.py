"""How long work reports how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the number of finished steps, and their total or 0 if it is unknown."""


Log = Callable[[dict[str, float]], None]
"""Called with each log line and each validation."""
