"""Vectors -> codebook and codes: fitting a quantizer, resolving collisions. Encoding needs numpy
only."""

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any, Literal, get_args

from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize import fsq, pq, rqkmeans, rqvae
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Levels

Method = Literal["rq-kmeans", "rq-kmeans+", "rq-vae", "pq", "opq", "fsq"]
METHODS: dict[str, Callable[..., Codebook]] = {
    "rq-kmeans": rqkmeans.fit,
    "rq-kmeans+": rqvae.fit_warm,
    "rq-vae": rqvae.fit,
    "pq": pq.fit,
    "opq": pq.fit_rotated,
    "fsq": fsq.fit,
}
"""The function that fits a codebook, by method: each takes what `fit` takes, and its own
options."""

_USING_TORCH = ("rq-kmeans+", "rq-vae", "fsq")

OPTION_MEANINGS = {
    "normalize": "Scale every vector to length 1 first, as the flag --normalize does.",
    "balanced": "Assign about the same number of items to every code of a level, as the flag "
    "--balanced does. Default: on below 8 items per code.",
    "width": "Width of the latent vectors that are quantized.",
    "epochs": "Passes over the vectors in training.",
}
"""What each option of a method does."""


def check_method(method: str, options: dict[str, Any]) -> None:
    """Raise UsageError unless the method exists and has these options, with values of their types
    (whole numbers from 1); MissingPackageError if its packages are not installed."""
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}", hint=f"choose from {', '.join(METHODS)}")
    types = option_types(method)
    for name, value in options.items():
        if name not in types:
            raise UsageError(
                f"method {method} has no option {name!r}", hint=f"choose from {', '.join(types)}"
            )
        if type(value) not in (types[name], *get_args(types[name])):
            raise UsageError(f"option {name} of method {method} cannot be {value!r}")
        if type(value) is int and value < 1:
            raise UsageError(
                f"option {name} of method {method} must be a whole number from 1, not {value}"
            )
    if method in _USING_TORCH:
        require("models")


def option_types(method: str) -> dict[str, Any]:
    """The options of a method that users set, with their types."""
    return {parameter.name: parameter.annotation for parameter in _options(method)}


def option_defaults(method: str) -> dict[str, Any]:
    """The options of a method that users set, with their defaults."""
    return {parameter.name: parameter.default for parameter in _options(method)}


def _options(method: str) -> list[Parameter]:
    parameters = signature(METHODS[method]).parameters.values()
    arguments = ("vectors", "sizes", "seed", "progress")
    return [parameter for parameter in parameters if parameter.name not in arguments]


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    method: str = "rq-kmeans",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Codebook:
    """A codebook with `sizes[l]` codes at level l, fitted to (n, dim) float32 embeddings.

    `options` are keyword arguments of the method's function, among them `normalize` (scale every
    vector to length 1 first) for all. The same seed and vectors give the same codebook. Raises
    UsageError for an unknown method, option or level size, DataError if a value is not finite or
    there are fewer distinct vectors than codes in a level.
    """
    check_method(method, options)
    Levels(tuple(sizes))
    return METHODS[method](vectors, sizes, seed=seed, progress=progress, **options)
