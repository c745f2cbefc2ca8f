"""The methods that fit a codebook, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.base.options import Option, plain, required
from sidtool.base.progress import Progress
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize import pq, rqkmeans, rqvae
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Levels

ARGUMENTS = ("vectors", "sizes", "seed", "progress")
"""What `fit` gives every method; its other arguments are its options."""


@dataclass(frozen=True)
class MethodOption:
    """An option of a method."""

    type: Any
    default: Any
    meaning: str


@dataclass(frozen=True)
class Quantizer:
    """A method: the function that fits a codebook, which takes what `fit` takes and its own
    options, and the extra of sidtool that it needs, one of `base/extras.py`."""

    fit: Callable[..., Codebook]
    extra: str | None = None

    @property
    def options(self) -> dict[str, MethodOption]:
        """The options by name. The meaning of `Annotated[int, "Passes over the vectors."]` is its
        text."""
        options = {}
        for name, parameter in signature(self.fit).parameters.items():
            if name not in ARGUMENTS:
                annotation = parameter.annotation
                kind = getattr(annotation, "__origin__", annotation)
                meaning = " ".join(getattr(annotation, "__metadata__", ()))
                options[name] = MethodOption(kind, parameter.default, meaning)
        return options


Method = Literal["rq-kmeans", "rq-kmeans+", "rq-vae", "pq", "opq"]
METHODS: dict[str, Quantizer] = {
    "rq-kmeans": Quantizer(rqkmeans.fit),
    "rq-kmeans+": Quantizer(rqvae.fit_warm, "models"),
    "rq-vae": Quantizer(rqvae.fit, "models"),
    "pq": Quantizer(pq.fit),
    "opq": Quantizer(pq.fit_rotated),
}
"""The methods by name."""


def check_method(method: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError unless the method exists and has these options, with values of their types
    (whole numbers from 1); MissingPackageError if its packages are not installed."""
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}", hint=f"choose from {', '.join(METHODS)}")
    quantizer = METHODS[method]
    declared = quantizer.options
    for name, value in options.items():
        if name not in declared:
            raise UsageError(
                f"method {method} has no option {name!r}", hint=f"choose from {', '.join(declared)}"
            )
        kind = declared[name].type
        Option(minimum=1 if required(kind) is int else None).check(
            f"option {name} of method {method}", value, kind
        )
    if quantizer.extra is not None:
        require(quantizer.extra)


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    method: str = "rq-kmeans",
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Codebook:
    """A codebook with `sizes[l]` codes at level l, fitted to (n, dim) float32 embeddings.

    `options` are keyword arguments of the method's function, among them `normalize` (scale every
    vector to length 1 first) for all. The same seed and vectors give the same codebook. Raises
    UsageError for an unknown method, option or level size, DataError if a value is not finite or
    there are fewer distinct vectors than codes in a level."""
    options = plain(options)
    check_method(method, options)
    Levels(tuple(sizes))
    return METHODS[method].fit(vectors, sizes, seed=seed, progress=progress, **options)
