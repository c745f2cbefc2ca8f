import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError
from sidtool.model.prompt.segments import PromptEncoder, catalog
from sidtool.model.vocabulary.tokenizer import add_block, add_sid_tokens
from sidtool.model.vocabulary.tokens import UserTokens
from sidtool.tokenizer.sid import SidSpace
from tests.models import tiny_tokenizer

USERS = UserTokens(100, 2000)


@given(st.text())
def test_the_token_of_a_user_is_the_hash_that_the_format_names(user: str) -> None:
    digest = hashlib.sha256(user.encode()).hexdigest()
    assert USERS.id(user) == 100 + int(digest[:16], 16) % 2000


def test_the_tokens_of_three_users_stay_for_ever() -> None:
    assert [USERS.id(user) for user in ("u1", "A3SGXH7AUHU8GW", "Zoë")] == [142, 205, 148]


def test_users_are_spread_over_all_tokens() -> None:
    ids = {UserTokens(5, 50).id(f"user {number}") for number in range(1000)}
    assert ids == set(range(5, 55))


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
    with pytest.raises(CompatibilityError, match="already has the token <user_0>, with id"):
        add_block(tokenizer, users, "--user-tokens")
