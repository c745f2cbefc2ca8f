"""The tokens that a target of the loss competes with, by name; loads no torch."""

from typing import Literal

SoftmaxOver = Literal["vocabulary", "sid", "level", "trie"]
