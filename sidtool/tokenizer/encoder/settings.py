"""An encoder as a value: a sentence-transformers model and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from sidtool.base.errors import IntegrityError, UsageError

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model and its settings; None: the model's own setting."""

    model: str
    """Folder, or `hf://ORG/NAME` for a model of the Hugging Face hub."""
    revision: str | None = None
    pooling: str | None = None
    """cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken."""
    prompt: str | None = None
    """Text put before every text."""
    max_length: int | None = None
    """Most tokens read of a text."""
    dtype: Dtype | None = None
    normalize: bool = False
    """Scale vectors to length 1, even if the model does not."""
    trust_remote_code: bool = False
    """Allow the model's own Python code and pickled weights."""

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

    @classmethod
    def of(
        cls, model: str | None, *, trust_remote_code: bool = False, **settings: Any
    ) -> "Encoder | None":
        """An encoder, or None without a model.

        Raises UsageError if one of the `settings` has a value but there is no model.
        """
        if model is not None:
            return cls(model, **settings, trust_remote_code=trust_remote_code)
        for name, value in settings.items():
            if value is not None:
                raise UsageError(f"--{name.replace('_', '-')} applies only with --encoder")
        return None
