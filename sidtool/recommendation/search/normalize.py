"""What scores are normalized over."""

from typing import Literal

Normalize = Literal["level", "trie", "vocabulary"]
"""What each step's log-probabilities are normalized over: all codes of the level, the valid next
codes of the trie, or the whole vocabulary (as `generate` does)."""
