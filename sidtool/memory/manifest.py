"""The manifest of a memory: its settings, and every other value that is not an array."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, Self, TypeVar

from sidtool.base.errors import IntegrityError, UsageError
from sidtool.base.options import check_options, option
from sidtool.base.records import Digest, JsonRecord, Number, Rule, refuse_newer
from sidtool.data.split import SplitReference, check_split
from sidtool.tokenizer.bundle import Identity, check_names

FORMAT = 1
"""The memory format that this version writes, and the newest that it reads."""


@dataclass(frozen=True)
class KnnSettings(JsonRecord):
    """How item-kNN weights events. With `distance` 1 and the other defaults, similarity is the
    cosine of the item columns, as far as a user has an item once and no more than WINDOW events.

    Raises UsageError for a number out of range."""

    distance: float = option(0.85, above=0, maximum=1)
    """Weight of a pair per position between its events: of `gap` positions, `distance ** (gap -
    1)`."""
    reverse: float = option(1.0, minimum=0, maximum=1)
    """Weight of a pair against its order; 1: symmetric."""
    normalization: float = option(0.5, minimum=0, maximum=1)
    """Exponent of the items' numbers of events that divide a similarity; 0.5: cosine. Lower favors
    items with many events."""
    shrinkage: float = option(0.0, minimum=0)
    """Lowers the similarity of rare items, as a summand of the denominator."""
    neighbors: int | None = option(None, minimum=1)
    """Most similar items kept per item."""
    recency: float = option(0.75, above=0, maximum=1)
    """Factor of the weight of a history's item for each item after it."""

    def __post_init__(self) -> None:
        check_options(self)


CONTENT_WEIGHT = 0.8
LARGEST_WEIGHT = 100.0


@dataclass(frozen=True)
class ContentSettings(JsonRecord):
    """How content was compared. Raises UsageError for a value out of range."""

    source: Literal["vectors", "codes"] = option()
    """The items' vectors, or their codes alone."""
    weight: float = option(CONTENT_WEIGHT, above=0, maximum=LARGEST_WEIGHT)
    """Similarity by content of two items with the same vector and many events. It is added to that
    of their events."""
    vectors: Annotated[str, Rule("empty or a SHA-256", "(?:[0-9a-f]{64})?")] = ""
    """SHA-256 of the (n, dim) float32 vectors; empty if the source is the codes."""

    def __post_init__(self) -> None:
        check_options(self)


Settings = TypeVar("Settings", KnnSettings, ContentSettings)


def with_floats(settings: Settings) -> Settings:
    """The settings as they are stored: a weight of 1 as 1.0, or it would change the digest."""
    names = [entry.name for entry in fields(settings) if entry.type is float]
    weights: dict[str, Any] = {name: float(getattr(settings, name)) for name in names}
    return replace(settings, **weights)


@dataclass(frozen=True)
class MemoryManifest(JsonRecord):
    """What a memory was made from, and its digests."""

    REQUIRED = ("format",)
    bundle: Identity
    """identity of the bundle whose items it has"""
    split: SplitReference
    """the split whose training events were counted"""
    train_digest: Digest
    """as `Split.train_digest`"""
    train_events: Number
    window: Number
    """events of a user that lie further apart do not co-occur"""
    settings: KnnSettings
    items: Number
    digest: Digest
    """SHA-256 over the fields above and the arrays"""
    content: ContentSettings | None = None
    """how items are similar by content; None: they are not"""
    tuned_on: Number | None = None
    """validation users that chose the settings; None: they were not tuned"""
    libraries: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    format: Annotated[int, Rule("a known format", minimum=1, maximum=FORMAT)] = FORMAT
    objects: Mapping[str, Digest] = field(default_factory=dict)
    """SHA-256 of every stored object except the root document"""
    kind: Literal["memory"] = "memory"

    @property
    def compares_vectors(self) -> bool:
        """Whether items are similar by their vectors, needed for another bundle, too."""
        return self.content is not None and self.content.source == "vectors"

    def needs_vectors(self, bundle: Identity) -> bool:
        """Whether the memory is built again for a bundle from the vectors of its items."""
        return self.compares_vectors and self.bundle.digest != bundle.digest

    def check_vectors(self, bundle: Identity, *, are_given: bool) -> None:
        """Raise UsageError if the memory cannot be built again for a bundle without the items'
        vectors, and they are not given, or if they are and it compares none."""
        if are_given and not self.compares_vectors:
            raise UsageError(
                "the memory compares no vectors: --embeddings would have no effect",
                hint="sidtool build-memory --embeddings, then tune-memory",
            )
        if not are_given and self.needs_vectors(bundle):
            raise UsageError(
                "the earlier memory compares the items' vectors, and was built for another bundle",
                hint="--items CATALOG if the bundle has an encoder, or --embeddings FILE, once per "
                "source of the bundle",
            )

    def check_choice(self, split: SplitReference) -> None:
        """Raise CompatibilityError if the settings of this earlier memory may have been chosen on
        events that the split of a later one holds out."""
        if self.tuned_on is not None:
            check_split("the tuned earlier memory", self.split, "the memory", split)

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
        refuse_newer(value, FORMAT, "the memory")
        try:
            manifest = super().from_json(value)
            check_names(manifest.objects)
        except (TypeError, ValueError, UsageError) as error:
            raise IntegrityError(f"the memory's manifest is malformed: {error}") from error
        return manifest
