"""The manifest of a bundle: every value that is not an array (`contents` has the arrays), and the
fields of the next version."""

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self, TypedDict

from sidtool.base.errors import IntegrityError, UsageError
from sidtool.base.records import (
    Count,
    Digest,
    JsonRecord,
    ReadAs,
    Rule,
    VersionNumber,
    flat,
    refuse_newer,
    version_key,
)
from sidtool.data import CatalogColumns, EventColumns
from sidtool.data.split import SplitReference
from sidtool.tokenizer.bundle.zarr_arrays import check_names
from sidtool.tokenizer.codes.report import CodebookReport, Policy
from sidtool.tokenizer.encoder.settings import EncoderRecipe
from sidtool.tokenizer.quantize.codebook import QuantizerParams
from sidtool.tokenizer.sid import SidSpace

FORMAT = 2
"""The newest bundle format that this version reads. `Bundle.of` writes 1 for what older versions
can use, which its codebook says (`Codebook.min_format`)."""
MAX_ITEMS = 1 << 32
"""Rows of the index are 32-bit numbers."""

_LEVEL = re.compile("codebook/level_[^/]*/zarr.json")


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


@dataclass(frozen=True)
class QuantizerRecipe(JsonRecord):
    """How a vector became codes."""

    method: str
    parameters: QuantizerParams


@dataclass(frozen=True)
class CooccurrenceRecipe(JsonRecord):
    """How co-occurrence in training events was used."""

    mode: str
    protocol: str
    train_events: int


@dataclass(frozen=True)
class Recipe(JsonRecord):
    """The recipe of a bundle, whose identity covers unknown keys too."""

    quantizer: QuantizerRecipe | None = None
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe)
    text_template: str | None = None
    collaborative: CooccurrenceRecipe | None = None


@dataclass(frozen=True)
class Source(JsonRecord):
    """What a bundle was made from."""

    catalog: Digest | None = None
    """digest of the catalog"""
    items: int | None = None
    columns: CatalogColumns | None = None
    split: SplitReference | None = None
    """the split whose training events gave the co-occurrence"""

    @property
    def event_columns(self) -> EventColumns | None:
        """The columns of the split's events, if they are recorded."""
        return None if self.split is None else self.split.columns


@dataclass(frozen=True)
class BuildChange(JsonRecord):
    """A codebook was built, or a map was imported."""

    items: Count
    kind: Literal["build"] = "build"

    def __str__(self) -> str:
        return f"built with {self.items} items"


@dataclass(frozen=True)
class ItemsChange(JsonRecord):
    """Items were added or retired; no SID moved."""

    added: Count = 0
    restored: Count = 0
    """retired items that are active again"""
    retitled: Count = 0
    retired: Count = 0
    catalog: str | None = None
    """digest of the catalog of added items"""
    kind: Literal["items"] = "items"

    def __str__(self) -> str:
        names = ("added", "restored", "retitled", "retired")
        counts = [(getattr(self, name), name) for name in names]
        return ", ".join(f"{count} {name}" for count, name in counts if count)


@dataclass(frozen=True)
class AlignChange(JsonRecord):
    """A new codebook was renamed to agree with the previous version's SIDs.

    Raises TypeError unless before and after have one number per level."""

    of: str
    """identity of the new codebook's bundle before the renaming"""
    common: Count
    """items in both bundles"""
    before: tuple[Count, ...]
    """common items whose first 1, 2 ... levels agreed before the renaming"""
    after: tuple[Count, ...]
    kind: Literal["align"] = "align"

    def __post_init__(self) -> None:
        if not self.after or len(self.before) != len(self.after):
            raise TypeError("before and after have not one number per level")

    def __str__(self) -> str:
        return f"aligned {self.of[:12]}: {self.after[-1]} of {self.common} SIDs preserved"


Change = BuildChange | ItemsChange | AlignChange


@dataclass(frozen=True)
class Version(JsonRecord):
    """One version in the lineage of a bundle."""

    version: VersionNumber
    digest: Digest
    """the bundle's identity"""
    name: str
    created: str
    change: Change


@dataclass(frozen=True)
class Collisions(JsonRecord):
    """How items whose nearest SIDs are equal were treated."""

    policy: Policy
    capacity: int | None = None
    """codes of the appended level, under the policy `append`"""


class Provenance(TypedDict, total=False):
    """The fields of a manifest that do not follow from the arrays: keyword arguments of
    `Bundle.of`. A new one also belongs in `next_version`, `align` and imported codebooks."""

    version: str
    parent: str | None
    lineage: tuple[Version, ...]
    change: Change
    created: str
    compatible_with: tuple[str, ...]
    recipe: Mapping[str, Any] | None
    source: Mapping[str, Any]
    report: Mapping[str, Any]
    libraries: Mapping[str, str]


@dataclass(frozen=True)
class Manifest(JsonRecord):
    """Every value of a bundle that is not an array. Mappings hold JSON values."""

    REQUIRED = ("format", "objects")
    kind: ClassVar[Literal["bundle"]] = "bundle"
    name: str
    space: SidSpace
    identity: Identity
    items: Annotated[int, Rule("a number of 32-bit rows", minimum=0, maximum=MAX_ITEMS - 1)]
    collisions: Collisions
    change: Change
    """what this version changed"""
    version: VersionNumber = "1.0"
    parent: Digest | None = None
    """identity of the previous version"""
    lineage: tuple[Version, ...] = ()
    """the versions before this one, oldest first"""
    compatible_with: tuple[Digest, ...] = ()
    """codebook digests whose models may use this bundle, because it was aligned with them"""
    recipe: Annotated[Mapping[str, Any], ReadAs(Recipe)] | None = None
    """how a text becomes a vector and a vector a SID; None for a map without a codebook"""
    source: Annotated[Mapping[str, Any], ReadAs(Source)] = field(default_factory=dict)
    """digests of the files that the bundle was made from"""
    report: Annotated[Mapping[str, Any], ReadAs(CodebookReport, or_empty=True)] = field(
        default_factory=dict
    )
    """the codebook report of the build"""
    libraries: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    format: Annotated[int, Rule("a known format", minimum=1, maximum=FORMAT)] = 1
    objects: Mapping[str, Digest] = field(default_factory=dict)
    """SHA-256 of every stored object except the root document"""

    @property
    def digest(self) -> str:
        """The digest of the identity."""
        return self.identity.digest

    @property
    def history(self) -> tuple[Version, ...]:
        """The lineage and this version, oldest first."""
        version = Version(self.version, self.identity.digest, self.name, self.created, self.change)
        return (*self.lineage, version)

    @property
    def made_by(self) -> Recipe:
        """The values of `recipe` that commands read."""
        return Recipe() if self.recipe is None else Recipe.from_json(self.recipe)

    @property
    def made_from(self) -> Source:
        """The values of `source` that commands read."""
        return Source.from_json(self.source)

    @property
    def codebook_report(self) -> CodebookReport | None:
        """The report of the build; None for an imported map, or a version after the built one."""
        return CodebookReport.from_json(self.report) if self.report else None

    def next_version(
        self, change: Change, *, published: Sequence[str] = (), new_codebook: bool = False
    ) -> Provenance:
        """The provenance of a version after this one, made by the same recipe. Another codebook
        increments the major version ("1.4" -> "2.0"), other items the minor one ("1.4" -> "1.5"),
        past those of the `published` versions. The report is left out: it describes the built
        version only. Raises DataError if a published version is no number."""
        numbers = [version_key(version) for version in (self.version, *published)]
        major, minor = max(number for number in numbers if number[0] == numbers[0][0])
        newest_major, _ = max(numbers)
        return {
            "version": f"{newest_major + 1}.0" if new_codebook else f"{major}.{minor + 1}",
            "parent": self.identity.digest,
            "lineage": self.history,
            "change": change,
            "created": now(),
            "compatible_with": self.compatible_with,
            "recipe": self.recipe,
            "source": self.source,
            "libraries": self.libraries,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a stored manifest; unknown keys are ignored. Raises CompatibilityError for a format
        that this version does not read, IntegrityError if a key is missing or a value breaks a rule
        of docs/format.md."""
        try:
            if not isinstance(value, Mapping):
                raise TypeError("it is not an object")
            refuse_newer(value, FORMAT, "the bundle")
            default = {"kind": "build", "items": value.get("items")}
            manifest = super().from_json({"change": default, **value})
            manifest._check()
            check_names(manifest.objects)
        except (TypeError, ValueError, UsageError) as error:
            raise IntegrityError(f"the bundle's manifest is malformed: {error}") from error
        return manifest

    def _check(self) -> None:
        """Raise ValueError if values do not agree with each other."""
        previous = self.lineage[-1].digest if self.lineage else None
        if self.parent != previous:
            raise ValueError(f"parent is {self.parent}, but the last of lineage is {previous}")
        policy, capacity = self.collisions.policy, self.collisions.capacity
        appended = policy == "append"
        expected = self.space.sizes[-1] if appended else None
        if capacity != expected:
            raise ValueError(f"capacity is {capacity}, not {expected} as under {policy}")
        recipe = self.made_by
        stored = [name for name in self.objects if _LEVEL.fullmatch(name)]
        depth = len(stored)
        fits = depth < self.space.levels if appended else depth in (0, self.space.levels)
        names = {f"codebook/level_{level}/zarr.json" for level in range(depth)}
        if not fits or names != set(stored):
            raise ValueError(f"codebook levels {sorted(stored)} do not fit the space")
        if stored and recipe.quantizer is None:
            raise ValueError("recipe.quantizer is missing, but there is a codebook")
        if len({len(probe.vector) for probe in recipe.encoder.probes}) > 1:
            raise ValueError("the vectors of recipe.encoder.probes have different widths")
        if report := self.codebook_report:
            for name, values in (("levels", report.levels), ("jaccard", report.neighbors.jaccard)):
                if len(values) != self.space.levels:
                    raise ValueError(
                        f"{name} of the report has {len(values)} entries for {self.space.levels} "
                        "levels"
                    )


def flat_record(value: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a nested record by dotted key, without the vectors of an encoder's probes."""
    return {
        key: member for key, member in flat(value).items() if key.rpartition(".")[2] != "probes"
    }


def now() -> str:
    """The time of creation that is recorded: UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
