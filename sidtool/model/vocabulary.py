"""The token block of a space inside a tokenizer: one contiguous range of ids, level-major, markers
last.

Knows tokenizers and embedding sizes; knows nothing of weights' values. SID tokens are ordinary
added tokens: not special, so that `decode(..., skip_special_tokens=True)` keeps them; not
normalized; and they strip no space beside them, so that text and tokens convert without loss and a
prompt gives the same tokens with and without its answer. The price of the last: a space right
before a SID is a token of its own (`Ġ`), so templates put none there."""

from typing import Any

from sidtool.errors import CompatibilityError
from sidtool.prompt.tokens import SidTokens
from sidtool.sid import SidSpace


def add_sid_tokens(tokenizer: Any, space: SidSpace) -> SidTokens:
    """Add every token of the space behind the tokenizer's own: normally the block starts at
    `len(tokenizer)`.

    Raises CompatibilityError if the tokenizer has one of the tokens already or does not number them
    in a row."""
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    present = [token for token in space.tokens if token in vocabulary]
    if present:
        raise CompatibilityError(
            f"the tokenizer already has {len(present)} of the {len(space.tokens)} SID tokens: "
            f"{present[0]} is id {vocabulary[present[0]]}",
            hint="extend a model without them, or build the bundle with another spelling",
        )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=False) for token in space.tokens]
    )
    tokens = SidTokens(space, int(tokenizer.convert_tokens_to_ids(space.tokens[0])))
    check_token_ids(tokenizer, tokens)
    last, place = max(vocabulary.items(), key=lambda pair: pair[1])
    if place >= tokens.start:
        raise CompatibilityError(
            f"{last!r} has id {place}, inside the block of SID tokens from {tokens.start}"
        )
    return tokens


def check_token_ids(tokenizer: Any, tokens: SidTokens) -> None:
    """Raise CompatibilityError unless every token of the block has the id that arithmetic gives it."""
    added = tokenizer.get_added_vocab()
    for expected, token in enumerate(tokens.space.tokens, start=tokens.start):
        if added.get(token) != expected:
            raise CompatibilityError(
                f"the tokenizer gives {token} the id {added.get(token)}, its contract says "
                f"{expected}",
                hint="a stage that saved the model without its tokenizer loses the added tokens",
            )


def check_embedding_rows(model: Any, tokens: SidTokens) -> None:
    """Raise CompatibilityError unless the embeddings and the output head reach the end of the
    block."""
    for name, layer in (
        ("embedding", model.get_input_embeddings()),
        ("output", model.get_output_embeddings()),
    ):
        rows = layer.weight.shape[0]
        if rows < tokens.stop:
            raise CompatibilityError(
                f"the model has {rows} {name} rows, its SID tokens reach to id {tokens.stop - 1}"
            )
