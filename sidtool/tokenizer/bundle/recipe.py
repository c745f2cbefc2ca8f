"""The parts of a manifest's `recipe` (from a text to a vector, and from a vector to a SID) and
`source` that commands read. A manifest holds both as JSON, with keys that are unknown here."""

from dataclasses import dataclass, field

from sidtool.base.records import Digest, JsonRecord
from sidtool.data import CatalogColumns, EventColumns
from sidtool.data.split import SplitReference
from sidtool.tokenizer.encoder.settings import EncoderRecipe
from sidtool.tokenizer.quantize.codebook import QuantizerParams


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
