"""How long a prompt may be, by the positions of a model."""

from typing import Any

from sidtool.base.errors import DataError
from sidtool.model.structure import is_encoder_decoder

_NAMES = ("max_position_embeddings", "max_encoder_position_embeddings")
"""Keys of configurations for the number of positions; the second is LED's."""


def max_positions(model: Any) -> int | None:
    """The most tokens that a model reads, by its configuration; None if it sets no limit."""
    config = getattr(model, "config", None)
    values = [getattr(config, name, None) for name in _NAMES]
    return next((value for value in values if type(value) is int and value > 0), None)


def prompt_positions(model: Any, n_answer: int) -> int | None:
    """The longest prompt whose answer a model can write, which feeds `n_answer` tokens back; None
    if there is no limit. An encoder has positions of its own, which only the prompt takes."""
    limit = max_positions(model)
    if limit is None or is_encoder_decoder(model):
        return limit
    return limit - n_answer


def check_positions(model: Any, n_prompt: int, n_answer: int) -> None:
    """Raise DataError if a prompt of `n_prompt` tokens is longer than a model reads before an
    answer of `n_answer`."""
    limit = prompt_positions(model, n_answer)
    n_positions = max_positions(model)
    if is_encoder_decoder(model):
        n_decoder = n_answer + 1  # the decoder begins with a token of its own
        if limit is not None and n_prompt > limit:
            raise DataError(
                f"a prompt has {n_prompt} tokens, the model has {n_positions} positions"
            )
        if limit is not None and n_decoder > limit:
            raise DataError(
                f"an answer has {n_decoder} tokens, the model has {n_positions} positions"
            )
        return
    if limit is None or n_prompt <= limit:
        return
    raise DataError(
        f"a prompt with its answer has {n_prompt + n_answer} tokens, the model has {n_positions} "
        "positions"
    )
