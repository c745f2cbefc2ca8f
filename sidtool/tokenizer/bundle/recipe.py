"""The parts of a recipe that commands read: from a text to a vector, and from a vector to a SID."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidtool.base.records import JsonRecord
from sidtool.tokenizer.quantize.codebook import QuantizerParams


@dataclass(frozen=True)
class QuantizerRecipe(JsonRecord):
    """How a vector became codes."""

    method: str
    parameters: QuantizerParams


@dataclass(frozen=True)
class Probe(JsonRecord):
    """A text and its vector, by which an encoder is recognized."""

    text: str
    vector: tuple[float, ...]


@dataclass(frozen=True)
class EncoderRecipe(JsonRecord):
    """The encoder of the texts, or `vectors` and `dim` alone if vectors were given."""

    model: str | None = None
    revision: str | None = None
    pooling: str | None = None
    prompt: str | None = None
    max_length: int | None = None
    dtype: str | None = None
    normalize: bool = False
    trust_remote_code: bool = False
    vectors: str | None = None
    dim: int | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class CooccurrenceRecipe(JsonRecord):
    """How co-occurrence in training events was used."""

    mode: str
    protocol: str
    train_events: int


@dataclass(frozen=True)
class Recipe(JsonRecord):
    """The recipe of a bundle. A manifest holds it as JSON, because its identity covers unknown keys
    too; this record checks the types of the known ones."""

    quantizer: QuantizerRecipe | None = None
    encoder: EncoderRecipe | None = None
    text_template: str | None = None
    collaborative: CooccurrenceRecipe | None = None
