"""Finds the SID tokens of a map in the tokenizer of a model that another system trained."""

import re
from collections.abc import Mapping
from typing import Any

from sidtool.base.errors import CompatibilityError
from sidtool.model.prompt.encoder import METASPACE
from sidtool.model.prompt.tokens import NO_TOKEN, SidTokens
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.sid import LETTERS, MAX_CODES, SidSpace


def find_tokens(tokenizer: Any, space: SidSpace) -> SidTokens:
    """The ids of the tokens of a space in a tokenizer; codes may lack one.

    Raises CompatibilityError if there are none, if a whole level, the begin or the end token has
    none, or if the tokenizer reads the text of one as something else."""
    added = tokenizer.get_added_vocab()
    ids = [added.get(token, NO_TOKEN) for token in space.tokens]
    if set(ids) == {NO_TOKEN}:
        raise CompatibilityError(
            f"the tokenizer has none of the {len(ids)} SID tokens, like {space.tokens[0]}",
            hint="sidtool extend-model adds them; a map of another spelling than the model's finds "
            "none, either",
        )
    for token, token_id in zip(space.tokens[space.n_codes :], ids[space.n_codes :], strict=True):
        if token_id == NO_TOKEN:
            raise CompatibilityError(
                f"the tokenizer has tokens of SIDs like {space.example}, but not {token}",
                hint="use a map without begin and end tokens: an index.json has none",
            )
    present = [(token, token_id) for token, token_id in zip(space.tokens, ids, strict=True)]
    _check_one_token(tokenizer, {token: n for token, n in present if n != NO_TOKEN})
    try:
        return SidTokens.of_ids(space, ids)
    except ValueError as error:
        raise CompatibilityError(f"the tokenizer cannot spell SIDs: {error}") from error


def _check_one_token(tokenizer: Any, ids: Mapping[str, int]) -> None:
    """Raise CompatibilityError unless each text is read as one token."""
    texts = list(ids)
    read = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for text, text_ids in zip(texts, read, strict=True):
        names = tokenizer.convert_ids_to_tokens(text_ids)
        # some tokenizers put a space before every text
        if names[:1] == [METASPACE]:
            text_ids = text_ids[1:]
        if list(text_ids) != [ids[text]]:
            raise CompatibilityError(
                f"the tokenizer reads {text} as {len(text_ids)} tokens ({', '.join(names)[:80]}), "
                f"not as id {ids[text]}"
            )


def level_sizes(tokenizer: Any, bundle: Bundle) -> tuple[int, ...]:
    """The level sizes that hold the codes of a map and every code that the tokenizer has a token
    for: a map may use only some of them.

    A level whose codes 0 to n - 1 all have tokens, and no other, has n codes; another one the next
    power of two, as an imported map has."""
    largest_used = bundle.items.codes.max(axis=0).tolist()
    spelled = _codes_with_tokens(tokenizer, bundle.space)
    sizes = []
    for used, codes in zip(largest_used, spelled, strict=True):
        largest = max(codes, default=0)
        is_dense = len(codes) == largest + 1
        if is_dense and used <= largest:
            sizes.append(largest + 1)
        else:
            sizes.append(1 << max(used, largest).bit_length())
    return tuple(sizes)


def _codes_with_tokens(tokenizer: Any, space: SidSpace) -> list[set[int]]:
    """For each level the codes that the tokenizer has a token for, whatever the level's size."""
    pattern = re.escape(space.template).replace(r"\{level\}", "(?P<level>[a-z])")
    pattern = pattern.replace(r"\{code\}", "(?P<code>0|[1-9][0-9]{0,4})")
    codes: list[set[int]] = [set() for _ in space.sizes]
    for text in tokenizer.get_added_vocab():
        match = re.fullmatch(pattern, text)
        level = LETTERS.index(match["level"]) if match else space.levels
        if match and level < space.levels and int(match["code"]) < MAX_CODES:
            codes[level].add(int(match["code"]))
    return codes
