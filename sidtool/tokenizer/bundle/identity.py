"""The identity of a bundle: three SHA-256 digests over its values, which `layout` computes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sidtool.base.records import Digest, JsonRecord


@dataclass(frozen=True)
class Identity(JsonRecord):
    """SHA-256 (hex) of the three parts of a bundle."""

    space: Digest
    codebook: Digest
    items: Digest

    @property
    def digest(self) -> str:
        """One SHA-256 over the three."""
        return hashlib.sha256(f"{self.space}:{self.codebook}:{self.items}".encode()).hexdigest()

    def to_json(self) -> dict[str, str]:
        """The JSON object that is stored."""
        return super().to_json() | {"digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The identity that `to_json` wrote. Raises TypeError for a missing or malformed key,
        ValueError if the digest is not that of the three parts."""
        identity = super().from_json(value)
        if value.get("digest") != identity.digest:
            raise ValueError(f"digest is not {identity.digest[:12]}…, that of the three parts")
        return identity

    @classmethod
    def from_parts(cls, value: Mapping[str, Any]) -> Self:
        """The identity of a JSON object with the three parts alone. Raises TypeError for a missing
        or malformed key."""
        return super().from_json(value)
