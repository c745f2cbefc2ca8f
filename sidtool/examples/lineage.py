"""The lineage of a file of training examples: what it was made from and what it contains.

It is stored beside the examples, as NAME.meta.json."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from sidtool.base.artifact import EXAMPLES, describe
from sidtool.base.digests import digest_strings, file_digest
from sidtool.base.documents import check_seal, parse_json
from sidtool.base.errors import CompatibilityError, DataError, RefusedError, UsageError
from sidtool.base.records import Count, JsonRecord
from sidtool.data.split import ListTargets, Split, SplitReference
from sidtool.data.tables import as_url, require_regular
from sidtool.examples.general_text import GeneralRecord
from sidtool.model.prompt import (
    Format,
    HistoryPrompt,
    LabelPrompt,
    ListPrompt,
    Templates,
    TextPrompt,
)
from sidtool.model.vocabulary import FieldValues
from sidtool.tokenizer.bundle import Bundle, Identity

LINEAGE_FORMAT = 1
"""The newest lineage format that this version reads and the one that it writes."""
AGAIN = "make the training examples again"
"""What to do about examples that were changed."""
WHAT_TO_NAME = "name the file that make-sft wrote, such as sft/train.jsonl"
"""What to do about a path that is no file of training examples."""


@dataclass(frozen=True)
class WeightRecord(JsonRecord):
    """What the lineage records of weights, over the training events that may be targets."""

    expression: str
    clip: float | None
    smallest: float
    mean: float
    largest: float
    clipped: int
    """Training events whose weight was lowered."""
    effective_events: float
    """(sum of weights)^2 / sum of squares: the number of events of equal weight whose mean varies
    as much (L. Kish, 1965)."""


@dataclass(frozen=True)
class TaskCounts(JsonRecord):
    """The training examples of one task."""

    examples: int
    tokens: int
    """0 where the examples were not measured."""
    longest: int
    """Tokens of the longest example."""
    share: float
    """Share of the task in all tokens."""


@dataclass(frozen=True)
class ExampleCounts:
    """Training examples that were written."""

    examples: int = 0
    tokens: int = 0
    longest: int = 0
    leaked: int = 0
    """Held-out events that they show"""

    def __add__(self, other: Self) -> "ExampleCounts":
        return ExampleCounts(
            self.examples + other.examples,
            self.tokens + other.tokens,
            max(self.longest, other.longest),
            self.leaked + other.leaked,
        )


def task_counts(written: Mapping[str, ExampleCounts]) -> dict[str, TaskCounts]:
    """The counts of the tasks that have examples. Raises RefusedError if one of them shows a
    held-out event."""
    leaked = sum(counts.leaked for counts in written.values())
    if leaked:
        raise RefusedError(
            f"{leaked} held-out events are in the training examples, not 0",
            hint="report this split",
        )
    total = max(1, sum(counts.tokens for counts in written.values()))
    return {
        task: TaskCounts(counts.examples, counts.tokens, counts.longest, counts.tokens / total)
        for task, counts in written.items()
        if counts.examples
    }


@dataclass(frozen=True)
class Lineage(JsonRecord):
    """What is recorded of a file of training examples."""

    OMITTED = ("label_prompts", "field_tokens", "columns", "own_templates", "parts")
    bundle: Identity
    catalog: str
    """Digest of the catalog's ids, titles and texts."""
    split: SplitReference
    task_weights: Mapping[str, float]
    task_budgets: Mapping[str, int]
    """Tokens of each task that has a budget."""
    max_tokens: int | None
    """Tokens of the whole mix, None without a budget."""
    example_format: Format
    max_length: int
    history_length: int
    hidden_items: int
    """Items whose text is in no example (`make-sft --hide-text-of`)."""
    seed: int
    templates: Mapping[str, tuple[str, ...]]
    """Task -> the text of each of its templates, as the model reads it."""
    history_prompt: HistoryPrompt | None
    text_prompt: TextPrompt | None
    tasks: Mapping[str, TaskCounts]
    dropped_events: int
    """Training events of items that the bundle lacks."""
    dropped_queries: int
    valid: int
    """Validation examples."""
    files: Mapping[str, str]
    """File name -> SHA-256 of its bytes."""
    leaked_events: int = 0
    """Held-out events found in the examples: always 0, since a leak is refused."""
    weights: WeightRecord | None = None
    """The weights of the examples; None without weights."""
    list_prompt: ListPrompt | None = None
    """The prompt of lists; None without such examples."""
    lists: ListTargets | None = None
    """How lists were made; None without them."""
    label_prompts: tuple[LabelPrompt, ...] = ()
    """The prompts by which a model trained on these examples predicts labels."""
    general: GeneralRecord | None = None
    """The general text among the examples; None without it."""
    field_tokens: FieldValues = field(default_factory=dict)
    """The values of fields that have tokens in the model, if an example shows such tokens."""
    columns: tuple[str, ...] = ()
    """The columns of the catalog that running text shows."""
    own_templates: Mapping[str, Templates] = field(default_factory=dict)
    """Task -> the user's templates, in place of its own (`make-sft --template`)."""
    parts: tuple[Mapping[str, Count], ...] = ()
    """Of examples in parts, the files of each part by name, with their numbers of examples."""
    format: int = LINEAGE_FORMAT

    @property
    def tokens(self) -> int:
        """Tokens of all examples, 0 where they were not measured."""
        return sum(counts.tokens for counts in self.tasks.values())

    def digest_of(self, examples: Path) -> str:
        """SHA-256 (hex) of a file of training examples; of parts, over the SHA-256 of their
        files."""
        if not self.parts:
            return self.files[examples.name]
        names = [name for part in self.parts for name in part]
        return digest_strings(names, [self.files.get(name, "") for name in names])

    def check_split(self, split: Split) -> None:
        """Raise CompatibilityError unless the training examples were made from this split."""
        if split.reference.digest != self.split.digest:
            raise CompatibilityError(
                f"the split is {split.reference}, the training examples were made from "
                f"{self.split}",
                hint="give the split that make-sft used",
            )

    def check_bundle(self, bundle: Bundle, examples: str | Path) -> None:
        """Raise CompatibilityError unless the SIDs in the training examples are those of
        `bundle`."""
        for part in ("space", "codebook", "items"):
            made_with = getattr(self.bundle, part)
            used = getattr(bundle.identity, part)
            if made_with != used:
                raise CompatibilityError(
                    f"{examples} was made with a bundle whose {part} digest is {made_with[:12]}, "
                    f"the model's is {used[:12]}",
                    hint="make the examples with the model's bundle, or give the model theirs by "
                    "sidtool rebind",
                )

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored."""
        return super().to_json() | {"bundle": asdict(self.bundle)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a stored lineage; unknown keys are ignored. Raises KeyError, TypeError or DataError
        if it is malformed."""
        bundle = Identity.from_parts(value["bundle"]).to_json()
        return super().from_json({**value, "bundle": bundle})


def side_files(train: Path) -> dict[str, Path]:
    """Where the files beside the training examples are: valid (the validation users), general (the
    held-out general text, if there is general text) and meta (the lineage).

    The names of the first two have "valid" or "general" where the stem has "train", or else before
    the suffix."""
    paths = {"meta": train.with_name(train.name + ".meta.json")}
    for part in ("valid", "general"):
        stem = f"{train.stem}.{part}"
        if "train" in train.stem:
            stem = train.stem.replace("train", part)
        paths[part] = train.with_name(stem + train.suffix)
    return paths


def in_parts(examples: Path) -> bool:
    """Whether training examples are a folder of parts, at a path or URL, and not a file."""
    return examples.is_dir() or "://" in as_url(examples)


def read_lineage(train: Path) -> Lineage:
    """The lineage of a file of training examples, checked against the file.

    Raises DataError if there is none, it has a newer format or is malformed, or the examples
    changed since, RefusedError if it records held-out events in them, UsageError for a folder."""
    if in_parts(train):
        what = describe(as_url(train)) or "a folder of parts"
        raise UsageError(f"{as_url(train)} is {what}, not {EXAMPLES}", hint=WHAT_TO_NAME)
    path = side_files(train)["meta"]
    data = None
    with suppress(OSError, DataError):
        require_regular(path)
        data = path.read_bytes()
    lineage = parsed_lineage(data, path, train)
    if train.name not in lineage.files:
        raise DataError(
            f"{path} is the lineage of {', '.join(lineage.files)}, not of {train.name}",
            hint="rename it back",
        )
    require_regular(train)
    recorded, actual = lineage.files[train.name], file_digest(train)
    if recorded != actual:
        raise DataError(
            f"{train} has digest {actual[:12]}, its lineage says {recorded[:12]}", hint=AGAIN
        )
    return lineage


def parsed_lineage(data: bytes | None, path: Path, train: Path) -> Lineage:
    """The lineage `path` of the training examples `train`; `data` is None if it cannot be read.
    Raises as `read_lineage`."""
    try:
        value = parse_json(data or b"")
    except ValueError as error:
        what = describe(as_url(train))
        problem = f"cannot read the lineage {as_url(path)} of {as_url(train)}"
        if what not in (None, "a file", EXAMPLES):
            problem = f"{as_url(train)} is {what}, not {EXAMPLES}"
        raise DataError(problem, hint=WHAT_TO_NAME) from error
    if not isinstance(value, dict) or value.get("format") != LINEAGE_FORMAT:
        raise DataError(
            f"{path} is no lineage of format {LINEAGE_FORMAT}",
            hint="make the training examples again, or upgrade sidtool",
        )
    try:
        lineage = Lineage.from_json(value)
        check_seal(value)
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise DataError(f"{path} is malformed: {error}", hint=AGAIN) from error
    if lineage.leaked_events:
        raise RefusedError(
            f"{path} says that {lineage.leaked_events} held-out events are in {train.name}, not 0",
            hint=AGAIN,
        )
    return lineage


def checked_side_file(examples: Path, lineage: Lineage, part: str, what: str) -> Path:
    """A file beside training examples, as `side_files` names it. Raises DataError, which says
    `what` it is, if it is missing or not the one that was written with them."""
    path = side_files(examples)[part]
    digest = file_digest(path) if path.is_file() else None
    if digest != lineage.files.get(path.name):
        problem = "is missing" if digest is None else "was changed"
        raise DataError(f"{path}, {what} of {examples.name}, {problem}", hint=AGAIN)
    return path
