"""An encoder as a value: a sentence-transformers model and its settings, and what a recipe records
of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from sidtool.base.options import check_options, option
from sidtool.base.records import JsonRecord

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Encoder:
    """An encoder of texts and its settings; None: the model's own setting. `lexical` has none.
    Raises UsageError for a length or a precision that does not exist."""

    model: str = option(flag="--encoder", panel="Encoder")
    """lexical (build-codebook only: tf-idf of words and character n-grams, fitted to the catalog
    and stored in the bundle), minilm (needs sidtool[minilm]), or a sentence-transformers model:
    folder or hf://ORG/NAME."""
    revision: str | None = option(None, panel="Encoder")
    """Revision of the model on the hub."""
    pooling: str | None = option(None, panel="Encoder")
    """Pooling of token vectors, like mean, cls or lasttoken. Default: the model's."""
    prompt: str | None = option(None, panel="Encoder")
    """Text put before each item's text."""
    max_length: int | None = option(None, minimum=1, panel="Encoder")
    """Maximum tokens per text."""
    dtype: Dtype | None = option(None, panel="Encoder")
    """Precision of the model."""
    normalize: bool = False
    """Scale vectors to length 1, even if the model does not."""
    trust_remote_code: bool = option(False)
    """Run a model's own code and load pickled weights."""

    def __post_init__(self) -> None:
        check_options(self)


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

    def encoder(self, model: str, *, trust_remote_code: bool = False) -> Encoder:
        """The encoder at `model` with the recorded settings."""
        return Encoder(
            model=model,
            revision=self.revision,
            pooling=self.pooling,
            prompt=self.prompt,
            max_length=self.max_length,
            dtype=cast(Dtype | None, self.dtype),
            normalize=self.normalize,
            trust_remote_code=trust_remote_code,
        )
