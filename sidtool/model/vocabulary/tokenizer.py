"""The SID vocabulary of a tokenizer.

SID tokens are added tokens that are not special, so `decode(..., skip_special_tokens=True)` keeps
them. They are not normalized and strip no space beside them, so text and tokens convert without
loss, and a prompt has the same tokens with and without its answer. A space right before a SID would
therefore be a token (`Ġ`), so templates put none there."""

from collections.abc import Sequence
from typing import Any

from sidtool.base.errors import CompatibilityError
from sidtool.model.vocabulary.tokens import NO_TOKEN, SidTokens, TokenBlock
from sidtool.tokenizer.sid import SidSpace


def add_sid_tokens(tokenizer: Any, space: SidSpace) -> SidTokens:
    """Add all tokens of a space to a tokenizer, in place, and return their ids.

    Raises CompatibilityError if the tokenizer has one of them already or does not number them
    consecutively after its other tokens."""
    vocabulary = tokenizer.get_vocab()
    remedy = "sidtool adopt one that was trained with them"
    _add_tokens(tokenizer, space.tokens, "SID tokens", remedy)
    tokens = SidTokens(space, int(tokenizer.convert_tokens_to_ids(space.tokens[0])))
    check_token_ids(tokenizer, tokens)
    last_token, last_id = max(vocabulary.items(), key=lambda pair: pair[1])
    if last_id >= tokens.start:
        raise CompatibilityError(
            f"{last_token!r} has id {last_id}, but SID tokens start at id {tokens.start}"
        )
    return tokens


def add_block(tokenizer: Any, block: TokenBlock, option: str) -> None:
    """Add tokens that stand for users or for values of fields, in place.

    They are special: no text of a catalog contains them, and decoding drops them. Raises
    CompatibilityError if the tokenizer has one of them already, which names the option."""
    _add_tokens(tokenizer, block.texts, f"{block.KIND} tokens", f"leave {option} out", special=True)
    check_token_ids(tokenizer, block)


def _add_tokens(
    tokenizer: Any, texts: Sequence[str], kind: str, remedy: str, *, special: bool = False
) -> None:
    from transformers import AddedToken

    vocabulary = tokenizer.get_vocab()
    present = [text for text in texts if text in vocabulary]
    if present:
        raise CompatibilityError(
            f"the tokenizer already has {len(present)} of the {len(texts)} {kind}: "
            f"{present[0]} has id {vocabulary[present[0]]}",
            hint=f"extend a model without them, or {remedy}",
        )
    added = [AddedToken(text, normalized=False, special=special) for text in texts]
    tokenizer.add_tokens(added, special_tokens=special)


def check_token_ids(tokenizer: Any, *vocabularies: SidTokens | TokenBlock) -> None:
    """Raise CompatibilityError unless the tokenizer gives every token the id that these compute."""
    added = tokenizer.get_added_vocab()
    for tokens in vocabularies:
        for expected, text in zip(tokens.token_ids.tolist(), tokens.texts, strict=True):
            if expected != NO_TOKEN and added.get(text) != expected:
                raise CompatibilityError(
                    f"the tokenizer gives {text} the id {added.get(text)}, its contract says "
                    f"{expected}",
                    hint="a model saved without its tokenizer loses the added tokens",
                )
