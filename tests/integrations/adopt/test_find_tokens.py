"""Tokens of a map in a tokenizer, and the level sizes that they tell."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError
from sidtool.integrations.adopt.adoption import find_tokens, level_sizes
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import SidSpace
from tests.models import tiny_tokenizer

SPACE = SidSpace((4, 4), "<{level}_{code}>", None, None)


def tokenizer_with(texts: Sequence[str]) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(texts))
    return tokenizer


def bundle_of(codes: Sequence[Sequence[int]], sizes: tuple[int, ...] = (4, 4)) -> Bundle:
    space = SidSpace(sizes, "<{level}_{code}>", None, None)
    ids = [f"i{row}" for row in range(len(codes))]
    items = ItemMap.of(space, ids, np.array(codes, dtype=np.uint16), ids)
    return Bundle.of(items, None, "reassign", name="map")


def texts(level: str, codes: Sequence[int]) -> list[str]:
    return [f"<{level}_{code}>" for code in codes]


def test_codes_without_a_token_have_none() -> None:
    tokenizer = tokenizer_with([*texts("a", [3, 0]), *texts("b", [1, 2, 3])])
    tokens = find_tokens(tokenizer, SPACE)
    first = len(tokenizer) - 5
    assert [ids.tolist() for ids in tokens.level_ids] == [
        [first + 1, -1, -1, first],
        [-1, first + 2, first + 3, first + 4],
    ]


def test_begin_and_end_tokens_are_needed_where_the_map_has_them() -> None:
    space = SidSpace((2, 2))
    codes = [f"<s_{level}_{code}>" for level in "ab" for code in range(2)]
    with pytest.raises(CompatibilityError, match=r"but not <\|sid_end\|>"):
        find_tokens(tokenizer_with([*codes, "<|sid_begin|>"]), space)
    tokens = find_tokens(tokenizer_with(["<|sid_end|>", *codes, "<|sid_begin|>"]), space)
    assert tokens.end == tokens.start
    assert tokens.begin == tokens.start + 5


class Splitting:
    """A tokenizer that has a token and yet reads its text as two."""

    def get_added_vocab(self) -> dict[str, int]:
        names = [SPACE.token(level, code) for level in range(2) for code in range(4)]
        return {name: 10 + number for number, name in enumerate(names)}

    def __call__(self, names: list[str], **_: Any) -> dict[str, list[list[int]]]:
        added = self.get_added_vocab()
        return {
            "input_ids": [[added[name], 3] if "b_2" in name else [added[name]] for name in names]
        }

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"token {token_id}" for token_id in ids]


def test_a_token_whose_text_is_read_otherwise_is_refused() -> None:
    with pytest.raises(CompatibilityError, match=r"reads <b_2> as 2 tokens \(token 16, token 3\)"):
        find_tokens(Splitting(), SPACE)


@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [
        (range(6), range(3), (6, 3)),  # every code up to the largest
        ([0, 1, 5], [0, 2], (8, 4)),  # some of them: powers of two
        ([1], [0], (2, 4)),  # fewer than the map uses
        (range(2), [*range(3), 70_000], (2, 3)),  # a number that no level can hold
    ],
)
def test_level_sizes_hold_all_codes_with_tokens(
    a: Sequence[int], b: Sequence[int], sizes: tuple[int, int]
) -> None:
    tokenizer = tokenizer_with([*texts("a", a), *texts("b", b), "<c_900>"])
    used = [[0, 2], [1, 1]]
    assert level_sizes(tokenizer, bundle_of(used)) == sizes
