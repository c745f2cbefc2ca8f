"""The options of extend-model, shared by the library and the command line."""

from dataclasses import dataclass

from sidtool.base.options import check_options, option
from sidtool.model.embedding_init import DEFAULT_INIT, DEFAULT_SCALE, Init
from sidtool.model.pretrained import Dtype
from sidtool.model.prompt.field_tokens import MAX_USER_TOKENS, FieldValues
from sidtool.model.prompt.template_slots import parse_field_tokens


@dataclass(frozen=True, kw_only=True)
class ExtendOptions:
    """Which tokens a model gets beside those of SIDs, and what their first rows are. Raises
    UsageError for a value out of range."""

    init: Init = option(DEFAULT_INIT)
    """What the first embedding rows of SID tokens are made from: centroids of the codebook, words
    of the titles, noise around the mean row, or random rows."""
    init_scale: float = option(DEFAULT_SCALE, above=0)
    """How far new rows are from the mean row, in mean distances of the existing ones."""
    revision: str | None = option(None)
    """Revision of the model on the hub."""
    license: str | None = option(None)
    """License, for the card of the model and of those trained from it."""
    dtype: Dtype | None = option(None)
    """Precision to store. Default: the checkpoint's."""
    user_tokens: int = option(0, minimum=0, maximum=MAX_USER_TOKENS)
    """Tokens for users: a history begins with one of them, by the hash of its user's id. TIGER has
    2000."""
    field_tokens: FieldValues = option(
        dict, reads=parse_field_tokens, flag="--field-token", metavar="FIELD=VALUE,VALUE"
    )
    """Values of a field with tokens of their own, which templates show as {FIELD:token}:
    user.FIELD, context.FIELD, event.FIELD or feedback.FIELD with its values, or gap or ago alone.
    Repeatable."""
    seed: int = option(0, minimum=0)
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_options(self)
