import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError, DataError
from sidtool.model.prompt.segments import PromptEncoder, catalog, sids
from sidtool.model.vocabulary.tokenizer import add_block, add_sid_tokens
from sidtool.model.vocabulary.tokens import SidTokens, TokenTable, UserTokens
from sidtool.tokenizer.sid import SidSpace
from tests.models import tiny_tokenizer

SPACE = SidSpace((3, 2))
TABLE = SidTokens.of_ids(SPACE, [12, 10, -1, 11, 20, 15, 8])


@st.composite
def tables(draw: st.DrawFn) -> SidTokens:
    """Tokens with arbitrary ids, some codes of some levels without one."""
    space = SidSpace(tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))))
    n = len(space.tokens)
    ids = draw(st.lists(st.integers(0, 3 * n), min_size=n, max_size=n, unique=True))
    for offset, size in zip(space.offsets.tolist(), space.sizes, strict=True):
        for code in draw(st.sets(st.integers(0, size - 1), max_size=size - 1)):
            ids[offset + code] = -1
    return SidTokens.of_ids(space, ids)


@given(tables())
def test_every_token_is_found_by_its_id_and_no_other_is(tokens: SidTokens) -> None:
    space = tokens.space
    names = dict(zip(tokens.token_ids.tolist(), space.tokens, strict=True))
    pairs = np.ndindex(space.levels, 5)
    token_levels = {space.token(level, code): level for level, code in pairs}
    ids = np.arange(-3, tokens.stop + 3)
    expected = [token_levels.get(names.get(token, ""), -1) if token >= 0 else -1 for token in ids]
    assert tokens.levels(ids).tolist() == expected
    assert tokens.is_code(ids).tolist() == [level >= 0 for level in expected]
    assert tokens.is_code(ids, 0).tolist() == [level == 0 for level in expected]
    is_sid_token = [token >= 0 and token in names for token in ids.tolist()]
    assert tokens.is_sid_token(ids).tolist() == is_sid_token
    assert (tokens.start, tokens.stop - 1) == (min(set(names) - {-1}), max(names))
    assert tokens.number == len(set(names) - {-1})


@given(tables(), st.integers(0, 99))
def test_codes_are_those_whose_ids_they_are(tokens: SidTokens, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, 6) for size in tokens.space.sizes], axis=1)
    codes = codes.astype(np.uint16)
    ids = tokens.ids(codes)
    spelled = dict(zip(tokens.space.tokens, tokens.token_ids.tolist(), strict=True))
    for row, sid in zip(ids.tolist(), codes.tolist(), strict=True):
        words = [tokens.space.token(level, code) for level, code in enumerate(sid)]
        assert row == [tokens.begin, *(spelled[word] for word in words), tokens.end]
    complete = ~tokens.lacking(codes)
    assert complete.tolist() == [-1 not in row for row in ids.tolist()]
    assert tokens.codes(ids[complete, 1:-1]).tolist() == codes[complete].tolist()


def test_ids_that_are_a_block_need_no_table() -> None:
    block = SidTokens.of_ids(SPACE, range(7, 14))
    assert (block, block.level_starts.tolist()) == (SidTokens(SPACE, 7), [7, 10])
    with pytest.raises(ValueError, match="no block"):
        _ = TABLE.level_starts
    # neighbors are contiguous in any order
    assert SidTokens.of_ids(SPACE, [9, 8, 7, 13, 12, 11, 10]).is_contiguous
    assert not TABLE.is_contiguous


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([1, 2, 3, 4, 4, 6, 7], "one id"),
        ([1, 2, 3, -1, -1, 6, 7], "a level has no token"),
        ([1, 2, 3, 4, 5, -1, 7], "begin or the end"),
        ([-1] * 7, "begin or the end"),
        ([1, 2, -7, 4, 5, 6, 8], "id -7"),
    ],
)
def test_impossible_tables_are_refused(ids: list[int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SidTokens.of_ids(SPACE, ids)


def test_a_table_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        TokenTable(((1, 2), (3, 4)), 5, 6).check(SPACE)
    with pytest.raises(ValueError, match="begin and end"):
        TokenTable(((1, 2, 3), (4, 5))).check(SPACE)


def test_a_prompt_with_a_code_that_has_no_token_is_refused() -> None:
    encoder = PromptEncoder(tiny_tokenizer(), TABLE)
    assert encoder.ids([sids(SPACE, np.array([[0, 1]], dtype=np.uint16))]) == [15, 12, 20, 8]
    with pytest.raises(DataError, match="no token for <s_a_2>"):
        encoder.ids([sids(SPACE, np.array([[2, 1]], dtype=np.uint16))])


USERS = UserTokens(100, 2000)


@given(st.text())
def test_the_token_of_a_user_is_the_hash_that_the_format_names(user: str) -> None:
    digest = hashlib.sha256(user.encode()).hexdigest()
    assert USERS.id(user) == 100 + int(digest[:16], 16) % 2000


def test_the_token_stands_behind_the_begin_token() -> None:
    assert [USERS.place(ids, 1) for ids in ([1, 7], [7, 1], [])] == [1, 0, 0]
    assert USERS.place([1, 7], None) == 0


def test_text_of_a_catalog_never_becomes_a_user_token() -> None:
    tokenizer = tiny_tokenizer()
    tokens = add_sid_tokens(tokenizer, SidSpace((4, 3)))
    users = UserTokens(tokens.stop, 3)
    add_block(tokenizer, users, "--user-tokens")
    assert (users.start, users.stop) == (tokens.stop, len(tokenizer))
    ids = PromptEncoder(tokenizer, tokens).ids([catalog("<user_1> bought it")])
    assert not set(ids) & set(range(users.start, users.stop))
    assert tokenizer.decode(ids) == "<user_1> bought it"
    with pytest.raises(CompatibilityError, match="user tokens: <user_0> has id"):
        add_block(tokenizer, users, "--user-tokens")
