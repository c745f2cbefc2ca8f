"""The SID vocabulary in a tokenizer: one contiguous range of token ids, level by level.

SID tokens are added tokens that are not special, so `decode(..., skip_special_tokens=True)` keeps
them. They are not normalized and strip no space beside them, so text and tokens convert without
loss, and a prompt has the same tokens with and without its answer. A space right before a SID would
therefore be a token (`Ġ`), so templates put none there."""

from typing import Any

from sidtool.base.errors import CompatibilityError
from sidtool.model.prompt.field_tokens import FieldTokens, UserTokens
from sidtool.model.prompt.tokens import NO_TOKEN, SidTokens
from sidtool.model.structure import embedding_layers
from sidtool.tokenizer.sid import SidSpace


def add_sid_tokens(tokenizer: Any, space: SidSpace) -> SidTokens:
    """Add all tokens of a space to a tokenizer, in place, and return their ids.

    Raises CompatibilityError if the tokenizer has one of them already or does not number them
    consecutively after its other tokens."""
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    present = [token for token in space.tokens if token in vocabulary]
    if present:
        raise CompatibilityError(
            f"the tokenizer already has {len(present)} of the {len(space.tokens)} SID tokens: "
            f"{present[0]} has id {vocabulary[present[0]]}",
            hint="extend a model without them, or build the bundle with another token template",
        )
    added = [AddedToken(token, normalized=False, special=False) for token in space.tokens]
    tokenizer.add_tokens(added)
    tokens = SidTokens(space, int(tokenizer.convert_tokens_to_ids(space.tokens[0])))
    check_token_ids(tokenizer, tokens)
    last_token, last_id = max(vocabulary.items(), key=lambda pair: pair[1])
    if last_id >= tokens.start:
        raise CompatibilityError(
            f"{last_token!r} has id {last_id}, but SID tokens start at id {tokens.start}"
        )
    return tokens


def add_block(tokenizer: Any, block: UserTokens | FieldTokens, option: str) -> None:
    """Add tokens that stand for users or for values of fields, in place.

    They are special: no text of a catalog contains them, and decoding drops them. Raises
    CompatibilityError if the tokenizer has one of them already, which names the option."""
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    for text in block.texts:
        if text in vocabulary:
            raise CompatibilityError(
                f"the tokenizer already has the token {text}, with id {vocabulary[text]}",
                hint=f"extend a model without it, or leave {option} out",
            )
    added = [AddedToken(text, normalized=False, special=True) for text in block.texts]
    tokenizer.add_tokens(added, special_tokens=True)
    check_block(tokenizer, block)


def check_block(tokenizer: Any, block: UserTokens | FieldTokens | None) -> None:
    """Raise CompatibilityError unless the tokenizer gives every token of a block its id."""
    if block is None:
        return
    added = tokenizer.get_added_vocab()
    for expected, text in enumerate(block.texts, start=block.start):
        if added.get(text) != expected:
            raise CompatibilityError(
                f"the tokenizer gives {text} the id {added.get(text)}, not {expected}"
            )


def check_token_ids(tokenizer: Any, tokens: SidTokens) -> None:
    """Raise CompatibilityError unless the tokenizer gives every SID token the id that `tokens`
    computes."""
    added = tokenizer.get_added_vocab()
    for expected, token in zip(tokens.token_ids.tolist(), tokens.space.tokens, strict=True):
        if expected != NO_TOKEN and added.get(token) != expected:
            raise CompatibilityError(
                f"the tokenizer gives {token} the id {added.get(token)}, its contract says "
                f"{expected}",
                hint="a model saved without its tokenizer loses the added tokens",
            )


def check_embedding_rows(model: Any, stop: int) -> None:
    """Raise CompatibilityError unless embeddings and output head have a row for every token id
    below `stop`."""
    layers = [("embedding", layer) for layer in embedding_layers(model)]
    layers.append(("output", model.get_output_embeddings()))
    for name, layer in layers:
        n_rows = layer.weight.shape[0]
        if n_rows < stop:
            raise CompatibilityError(
                f"the model has {n_rows} {name} rows, but its added tokens need {stop}"
            )
