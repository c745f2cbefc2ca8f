"""An encoder as a value: a sentence-transformers model and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from sidtool.base.errors import IntegrityError
from sidtool.base.options import option

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model and its settings; None: the model's own setting."""

    model: str = option(flag="--encoder", panel="Encoder")
    """sentence-transformers model: folder or hf://ORG/NAME."""
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

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Encoder":
        """The encoder that a recipe records. Raises IntegrityError for a value of another type."""
        recorded = {f.name: recipe[f.name] for f in fields(cls) if f.name in recipe}
        for name, value in recorded.items():
            flag = name in ("normalize", "trust_remote_code")
            kind = bool if flag else int if name == "max_length" else str
            # type: a bool is an int, too
            if type(value) is not kind and (value is not None or name == "model" or flag):
                raise IntegrityError(f"the recipe's encoder has {name} = {value!r}")
        return cls(**recorded)
