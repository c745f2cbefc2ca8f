"""Options of build-codebook, shared by the library and the command line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sidtool.base.options import check_options, option
from sidtool.data import CatalogColumns, Items, TextNames, read_items
from sidtool.tokenizer.assign.policy import Policy
from sidtool.tokenizer.quantize import Method, check_method
from sidtool.tokenizer.quantize.fusion import FusionOptions
from sidtool.tokenizer.sid import Levels, SidSpace, Spelling


@dataclass(frozen=True, kw_only=True)
class CatalogOptions(TextNames):
    """How a catalog is read (see `data.items.read_items`)."""


def read_catalog(
    path: Path, options: CatalogOptions | None = None, *, recorded: CatalogColumns | None = None
) -> Items:
    """Read a catalog with these options, or the columns that a bundle records; errors as in
    `data.items.read_items`."""
    return read_items(path, **asdict(options or CatalogOptions()), recorded=recorded)


def read_sizes(text: str) -> tuple[int, ...]:
    """The sizes of levels: "256x256" -> (256, 256). Raises UsageError."""
    return Levels.from_text(text).sizes


@dataclass(frozen=True)
class BuildOptions:
    """How vectors become SIDs, and how SIDs are spelled.

    Raises UsageError for a method without one of its options, a collision policy that does not
    exist and a vocabulary that cannot be spelled."""

    sizes: tuple[int, ...] | None = option(
        None, reads=read_sizes, flag="--levels", panel="Quantizer"
    )
    """Codes per level, like 256x256x256. Default: by the number of items, 1024x512x512 for 1,025 to
    2.6 million."""
    method: Method = option("rq-kmeans", panel="Quantizer")
    """Quantization method."""
    method_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method, like `balanced`."""
    collisions: Policy = option("reassign")
    """Items with the same SID: reassign all but one, append a level, or allow them."""
    spelling: Spelling = option("openonerec", panel="Output")
    """Token spelling."""
    begin_end_tokens: bool = option(True)
    """Wrap a SID in begin and end tokens, if the spelling has them."""
    fusion: FusionOptions = field(default_factory=FusionOptions)
    weights: tuple[float, ...] = ()
    """One per source of vectors, in proportion; all equal if none are given."""
    seed: int = option(0, minimum=0)
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_options(self)
        check_method(self.method, dict(self.method_options))
        if self.sizes is not None:
            self.space(self.sizes)

    def sizes_for(self, n_items: int) -> tuple[int, ...]:
        """The sizes for so many items: those that were given, or by `Levels.for_items`."""
        return Levels.for_items(n_items).sizes if self.sizes is None else self.sizes

    def space(self, sizes: tuple[int, ...]) -> SidSpace:
        """The SID vocabulary of these sizes (an appended collision level included, if any)."""
        return SidSpace.of_spelling(sizes, self.spelling, begin_end_tokens=self.begin_end_tokens)
