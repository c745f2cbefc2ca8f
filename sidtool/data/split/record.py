"""The stored record of a split: its manifest, and the reference that everything made from it
carries."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from sidtool.base.errors import CompatibilityError, IntegrityError, UsageError
from sidtool.base.options import check_options, option
from sidtool.base.records import Count, Digest, JsonRecord, Number, Rule, refuse_newer
from sidtool.data.columns import EventColumns
from sidtool.data.fields.fields import FieldTypes
from sidtool.data.times import NUMBER, units_per_second

SPLIT_FORMAT = 4
"""The newest format of a split folder that this version reads, and the one that it writes."""
Protocol = Literal["leave-one-out", "last-session", "temporal", "given"]
MAX_REPEATED_PERCENT = 1
"""Repeated targets per 100 held-out examples up to which seen items are removed by default: a
target that is seen and removed can never be found, and removing gains everywhere else."""

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(?P<number>.+?)(?P<unit>[smhd]?)")


def parse_duration(text: str) -> float:
    """Seconds of a number, or of one with a unit (s, m, h, d), like 30m. Raises UsageError."""
    match = DURATION.fullmatch(text.strip())
    if match is None or not NUMBER.fullmatch(match["number"]):
        raise UsageError(f"{text!r} is no time", hint="like 1800, 30m, 12h or 1d")
    return float(match["number"]) * SECONDS[match["unit"] or "s"]


@dataclass(frozen=True)
class SessionRule(JsonRecord):
    """How events are divided into sessions; the manifest of a split records it.

    Raises UsageError unless there is either a gap or a column, and for a gap that is not above
    0."""

    gap: float | None = option(
        None, above=0, reads=parse_duration, flag="--session-gap", metavar="TIME"
    )
    """An event that comes so long after the user's previous one begins a session: seconds, or like
    30m, 12h or 1d. last-session requires this or --session-column."""
    column: str | None = option(None, flag="--session-column")
    """Column that names a user's sessions, in place of --session-gap."""

    def __post_init__(self) -> None:
        if (self.gap is None) == (self.column is None):
            raise UsageError("give either --session-gap or --session-column")
        check_options(self)

    def __str__(self) -> str:
        if self.gap is None:
            return f"by column {self.column}"
        return f"{self.gap:g} seconds apart"


def line_format(fields: FieldTypes | None, sessions: SessionRule | None) -> int:
    """The format of a split in JSON Lines: 3 with sessions, 2 with fields of events or users, else
    1."""
    if sessions is not None:
        return 3
    return 1 if fields is None else 2


@dataclass(frozen=True)
class Cuts(JsonRecord):
    """The two moments of a temporal split, in the unit of the order column (dates: seconds since
    1970)."""

    valid_from: float
    test_from: float


@dataclass(frozen=True)
class SplitReference(JsonRecord):
    """Which split something was made from. Bundles, training examples and models carry it."""

    OMITTED = ("columns", "targets_repeat")
    protocol: Protocol
    digest: Digest
    """SHA-256 over the training and the held-out events."""
    cuts: Cuts | None = None
    extends: tuple[Digest, ...] = ()
    """Digests of the earlier splits that this one extends: nothing that it holds out was in their
    training events (`extended`)."""
    columns: EventColumns | None = field(default=None, compare=False)
    """Columns of the events, so that a later command reads events without a question."""
    targets_repeat: bool | None = field(default=None, compare=False)
    """Whether more held-out targets than `MAX_REPEATED_PERCENT` are items of their own history:
    if not, commands exclude seen items by default. None where it is not recorded."""

    @property
    def order(self) -> str | None:
        """The column that orders the events; None where it is not recorded or is the rows."""
        return None if self.columns is None else self.columns.order

    @property
    def time_unit(self) -> float | None:
        """Units of the cuts in a second, 0 for numbers that are no times since 1970; None without
        cuts or with two units, and where they count the rows of a file, as another file has
        others."""
        if self.cuts is None or self.order is None:
            return None
        units = {units_per_second(cut) for cut in (self.cuts.valid_from, self.cuts.test_from)}
        return (units.pop() or 0) if len(units) == 1 else None

    def excludes_held_out(self, other: "SplitReference") -> bool:
        """Whether what was made from this split has seen no event that `other` holds out, neither
        in training nor in validation.

        True for equal digests and if `other` extends this one, which may share validation events,
        and for two temporal splits by times of one column and unit if `other` starts to hold out
        where this one starts its test or later.
        """
        if self.digest == other.digest or self.digest in other.extends:
            return True
        cuts = self.comparable_cuts(other)
        return cuts is not None and cuts[0].test_from <= cuts[1].valid_from

    def comparable_cuts(self, other: "SplitReference") -> tuple[Cuts, Cuts] | None:
        """The cuts of this split and of `other`, None unless both are times of one unit, in columns
        of one name: an event has other times in another column."""
        if self.cuts is None or other.cuts is None:
            return None
        if self.time_unit is None or self.time_unit != other.time_unit or self.order != other.order:
            return None
        return self.cuts, other.cuts

    def __str__(self) -> str:
        return f"{self.digest[:12]} ({self.protocol})"


def check_split(
    made: str, made_from: SplitReference | None, used: str, split: SplitReference | None
) -> None:
    """Raise CompatibilityError if `made` may have learned from events that `split` holds out.

    `made` names a bundle or a model, `made_from` the split whose training events it learned from,
    `used` what it is combined with: training examples or a split. What learned from no interactions
    (None) may be combined with anything. The rule is `SplitReference.excludes_held_out`; where it
    fails, a leak cannot be ruled out.
    """
    if made_from is None or split is None or made_from.excludes_held_out(split):
        return
    hint = "make both from one split, or the later one with `sidtool split --extends`"
    if split.extends and split.digest not in made_from.extends:
        hint = f"make split {split} again with one more --extends, which names split {made_from}"
    raise CompatibilityError(
        f"{made} was made from split {made_from}, {used} is of split {split}: it may have learned "
        "from held-out events",
        hint=hint,
    )


@dataclass(frozen=True)
class SplitCounts(JsonRecord):
    """Sizes of the parts of a split."""

    OMITTED = ("repeated_targets", "tied_targets")
    users: Count
    """Users with training events."""
    train_events: Count
    valid: Count
    """Validation examples."""
    test: Count
    """Test examples."""
    windows: Count = 0
    """Training windows (protocol `given`)."""
    left_out: Count = 0
    """Under `temporal`, users whose first event is held out: that event has no history, so it is in
    no part. Under `leave-one-out`, events behind a user's last target; under `last-session`, those
    in or behind a user's last session that are no targets. Under `given`, training windows that
    show or may show a held-out event."""
    repeated_targets: int | None = None
    """Held-out targets that are items of their own history; None in splits before 0.3."""
    tied_targets: int | None = None
    """Held-out targets at the time of the user's event before them: the rows of the file order the
    two. None under `given`, whose windows have no times, and in splits before 0.3."""


@dataclass(frozen=True)
class SplitManifest(JsonRecord):
    """Everything that `split.json` records."""

    REQUIRED = ("format",)
    OMITTED = ("fields", "sessions", "drops_events", "parts")
    protocol: Protocol
    digest: Digest
    """SHA-256 over the two digests below: equal for equal parts, whatever file they came from."""
    train_digest: Digest
    """SHA-256 over the training events (user, item, position), sorted by user."""
    held_out_digest: Digest
    """SHA-256 over the validation and the test events, sorted by user."""
    events_digest: str
    """SHA-256 over the events that were split; under `given`, over the windows of the three
    files."""
    counts: SplitCounts
    cuts: Cuts | None
    columns: EventColumns | None
    """Columns that were read; None under `given`."""
    files: Mapping[str, Digest]
    """Name of each file in the folder -> SHA-256 of its bytes."""
    extends: tuple[Digest, ...] = ()
    """As `SplitReference.extends`."""
    fields: FieldTypes | None = None
    """The fields of events and users, None without any."""
    sessions: SessionRule | None = None
    """What a session is, None where the split records none."""
    drops_events: bool = False
    """As `SplitOrigin.drops_events`."""
    parts: Number = 1
    """Ranges of buckets of users that have files of their own, in folders; 1: there are no
    folders."""
    format: Annotated[int, Rule("a known format", minimum=1, maximum=SPLIT_FORMAT)] = 1

    @property
    def folders(self) -> list[str]:
        """The folders of the files, by number; those of ranges without events are missing."""
        return sorted({name.rpartition("/")[0] for name in self.files})

    @property
    def reference(self) -> SplitReference:
        """The reference that everything made from this split carries."""
        repeated = self.counts.repeated_targets
        limit = MAX_REPEATED_PERCENT * (self.counts.valid + self.counts.test)
        targets_repeat = None if repeated is None else 100 * repeated > limit
        return SplitReference(
            self.protocol, self.digest, self.cuts, self.extends, self.columns, targets_repeat
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a stored manifest; unknown keys are ignored.

        Raises CompatibilityError for a newer format, IntegrityError for a malformed manifest.
        """
        try:
            refuse_newer(value, SPLIT_FORMAT, "the split")
            manifest = super().from_json(value)
            if manifest.format < SPLIT_FORMAT and manifest.format != line_format(
                manifest.fields, manifest.sessions
            ):
                raise TypeError(
                    f"format {manifest.format} has the fields {manifest.fields} and the sessions "
                    f"{manifest.sessions}"
                )
            if manifest.protocol == "last-session" and manifest.sessions is None:
                raise TypeError("a last-session split has no sessions")
            if manifest.parts > 1 and (manifest.format < 4 or manifest.protocol == "given"):
                raise TypeError(f"a {manifest.protocol} split of format {manifest.format} in parts")
            if (manifest.protocol == "temporal") != (manifest.cuts is not None):
                raise TypeError(f"the cuts of a {manifest.protocol} split are {manifest.cuts}")
            return manifest
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise IntegrityError(f"the split's manifest is malformed: {error}") from error
