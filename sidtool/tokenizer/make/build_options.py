"""Options of build-codebook, shared by the library and the command line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.options import option
from sidtool.data.columns import CatalogColumns
from sidtool.data.items import CatalogNames, EmptyText, Items, read_items
from sidtool.tokenizer.assign.policy import Policy, check_policy
from sidtool.tokenizer.quantize import Method, check_method
from sidtool.tokenizer.quantize.fusion import FusionOptions
from sidtool.tokenizer.sid import SidSpace, Spelling


@dataclass(frozen=True)
class CatalogOptions(CatalogNames):
    """How a catalog is read (see `data.items.read_items`)."""

    text_template: str | None = option(None)
    """Text of an item, from catalog columns. Default: the title; with a bundle, as it was built."""
    empty_text: EmptyText = option("id")
    """Item without text: use its id as text, drop it, or fail."""


def read_catalog(
    path: Path,
    options: CatalogOptions | None = None,
    *,
    recorded: CatalogColumns | None = None,
) -> Items:
    """Read a catalog with these options, or the columns that a bundle records; errors as in
    `data.items.read_items`."""
    return read_items(path, **asdict(options or CatalogOptions()), recorded=recorded)


@dataclass(frozen=True)
class BuildOptions:
    """How vectors become SIDs, and how SIDs are spelled.

    Raises UsageError for a method without one of its options, a collision policy that does not
    exist and a vocabulary that cannot be spelled.
    """

    sizes: tuple[int, ...] = (256, 256, 256)
    """Codes per level."""
    method: Method = "rq-kmeans"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method, like `balanced`."""
    collisions: Policy = "reassign"
    spelling: Spelling = "openonerec"
    begin_end_tokens: bool = True
    """Wrap a SID in begin and end tokens, if the spelling has them."""
    fusion: FusionOptions = field(default_factory=FusionOptions)
    weights: tuple[float, ...] = ()
    """One per source of vectors, in proportion; all equal if none are given."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_method(self.method, dict(self.method_options))
        check_policy(self.collisions)
        self.space(self.sizes)

    def space(self, sizes: tuple[int, ...]) -> SidSpace:
        """The SID vocabulary of these sizes (an appended collision level included, if any)."""
        return SidSpace.of_spelling(sizes, self.spelling, begin_end_tokens=self.begin_end_tokens)


def build_options(settings: Mapping[str, Any], *, has_events: bool, **choices: Any) -> BuildOptions:
    """Options from one list of `settings` for the method and the fusion, and `choices` (the other
    fields of BuildOptions).

    Raises UsageError for a setting that has no effect without interactions.
    """
    names = {each.name for each in fields(FusionOptions)}
    fusion = {name: value for name, value in settings.items() if name in names}
    method_options = {name: value for name, value in settings.items() if name not in names}
    options = BuildOptions(method_options=method_options, fusion=FusionOptions(**fusion), **choices)
    unused = fusion.keys() - {"text_dim"}
    if not has_events and unused:
        raise UsageError(f"option {min(unused)} needs --interactions")
    return options


def parse_source(text: str) -> tuple[Path, float]:
    """A file of vectors and its weight: "FILE=WEIGHT", or "FILE" with weight 1.

    A path may contain "=" itself, if no number follows.
    """
    path, equals, weight = text.rpartition("=")
    try:
        return (Path(path), float(weight)) if equals else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0
