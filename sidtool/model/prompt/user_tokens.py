"""Tokens that stand for users, by the hash of their ids (S. Rajput et al., TIGER, 2023)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

MAX_USER_TOKENS = 1 << 20


@dataclass(frozen=True)
class UserTokens:
    """A block of `number` token ids from `start` on, each of which many users may share."""

    start: int
    number: int

    @property
    def stop(self) -> int:
        """One past the last id of the block."""
        return self.start + self.number

    @property
    def texts(self) -> tuple[str, ...]:
        """The tokens in the order of their ids."""
        return tuple(f"<user_{index}>" for index in range(self.number))

    def id(self, user: str) -> int:
        """The token id of a user: the first eight bytes of SHA-256 of the user's id in UTF-8, as a
        big-endian number, modulo the number of tokens."""
        digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).digest()
        return self.start + int.from_bytes(digest[:8], "big") % self.number

    def place(self, ids: Sequence[int], begin: int | None) -> int:
        """Where the user's token stands in a prompt: first, or behind the begin token."""
        return int(len(ids) > 0 and ids[0] == begin)
