"""The manifest of a memory: every value that is not an array."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from sidtool.base.errors import CompatibilityError, IntegrityError, UsageError
from sidtool.base.records import JsonRecord
from sidtool.data.split import SplitReference
from sidtool.memory.content import ContentSettings
from sidtool.memory.similarity import KnnSettings
from sidtool.tokenizer.bundle import Identity, check_digests, check_names

FORMAT = 1
"""The memory format that this version writes, and the newest that it reads."""


@dataclass(frozen=True)
class MemoryManifest(JsonRecord):
    """What a memory was made from, and its digests."""

    bundle: Identity
    """identity of the bundle whose items it has"""
    split: SplitReference
    """the split whose training events were counted"""
    train_digest: str
    """as `Split.train_digest`"""
    train_events: int
    window: int
    """events of a user that lie further apart do not co-occur"""
    settings: KnnSettings
    items: int
    digest: str
    """SHA-256 over the fields above and the arrays"""
    content: ContentSettings | None = None
    """how items are similar by content; None: they are not"""
    tuned_on: int | None = None
    """validation users that chose the settings; None: they were not tuned"""
    libraries: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    format: int = FORMAT
    objects: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every stored object except the root document"""
    kind: Literal["memory"] = "memory"

    @property
    def compares_vectors(self) -> bool:
        """Whether items are similar by their vectors, which a memory of other items needs too."""
        return self.content is not None and self.content.source == "vectors"

    @property
    def source(self) -> dict[str, Any]:
        """The fields that the digest covers."""
        names = ["bundle", "split", "train_digest", "train_events", "window", "settings", "items"]
        # what equality leaves out follows from the events, or says nothing about them
        split = replace(self.split, columns=None, targets_repeat=None)
        stored = replace(self, split=split).to_json()
        if self.content is not None:
            names.append("content")
        return {name: stored[name] for name in names}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a stored manifest; unknown keys are ignored.

        Raises CompatibilityError for a format that this version does not read, IntegrityError for a
        missing or malformed key."""
        if not isinstance(value, Mapping):
            raise IntegrityError("the memory's manifest is malformed: it is not an object")
        number = value.get("format")
        if type(number) is not int or number < 1:
            raise IntegrityError(
                f"the memory's manifest has format {number!r}, not a number from 1"
            )
        if number > FORMAT:
            raise CompatibilityError(
                f"the memory has format {number}, this version of sidtool reads up to {FORMAT}",
                hint="upgrade sidtool",
            )
        try:
            manifest = super().from_json(value)
            for name in ("items", "window", "train_events"):
                if getattr(manifest, name) < 1:
                    raise ValueError(f"{name} is {getattr(manifest, name)}, not at least 1")
            if manifest.tuned_on is not None and manifest.tuned_on < 1:
                raise ValueError(f"tuned_on is {manifest.tuned_on}, not at least 1")
            check_digests(manifest._digests())
            check_names(manifest.objects)
        except (TypeError, ValueError, UsageError) as error:
            raise IntegrityError(f"the memory's manifest is malformed: {error}") from error
        return manifest

    def _digests(self) -> Iterator[str]:
        yield from (self.bundle.space, self.bundle.codebook, self.bundle.items)
        yield from (self.split.digest, *self.split.extends)
        yield from (self.train_digest, self.digest, *self.objects.values())
        if self.content is not None and self.content.source == "vectors":
            yield self.content.vectors
