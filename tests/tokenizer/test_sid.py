import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.tokenizer.sid import SPELLINGS, Levels, SidSpace, read_sizes

sizes = st.lists(st.integers(1, 300), min_size=1, max_size=5).map(tuple)


@given(sizes, st.sampled_from(sorted(SPELLINGS)), st.data())
def test_spelling_and_parsing_are_inverse(
    sizes: tuple[int, ...], spelling: str, data: st.DataObject
) -> None:
    space = SidSpace(sizes, **SPELLINGS[spelling])
    codes = tuple(data.draw(st.integers(0, size - 1)) for size in sizes)
    for begin_end_tokens in (False, True):
        text = space.spell(codes, begin_end_tokens=begin_end_tokens)
        assert space.parse(text) == codes
        matches = space.find(f"see {text}{text}, or {text}.")
        assert [result.codes for result in matches] == [codes] * 3
    assert space.parse_prefix(space.spell(codes[:1])) == codes[:1]


@given(sizes, st.integers(0, 2**32))
def test_packed_keys_sort_as_codes_do_and_unpack(sizes: tuple[int, ...], seed: int) -> None:
    levels = Levels(sizes)
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, 20) for size in sizes], axis=1).astype(np.uint16)
    keys = levels.pack(codes)
    np.testing.assert_array_equal(levels.unpack(keys), codes)
    assert codes[np.argsort(keys, kind="stable")].tolist() == sorted(codes.tolist())
    levels.check(codes)
    with pytest.raises(UsageError, match=f"has {len(sizes)} levels"):
        levels.check(codes[:, 1:])


@given(sizes)
def test_tokens_are_one_level_major_block_with_begin_and_end_last(sizes: tuple[int, ...]) -> None:
    space = SidSpace(sizes)
    assert len(space.tokens) == sum(sizes) + 2
    assert space.tokens[-2:] == ("<|sid_begin|>", "<|sid_end|>")
    for level, size in enumerate(sizes):
        assert space.tokens[space.offsets[level] + size - 1] == space.token(level, size - 1)
    assert SidSpace.from_json(space.to_json()) == space


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": ()}, "1 to 26 levels"),
        ({"sizes": (4, 0)}, "1 to 65536 codes"),
        ({"sizes": (65536,) * 5}, "need 80 bits"),
        ({"sizes": (4,), "template": "<{code}>"}, "level"),
        ({"sizes": (4,), "begin": None}, "begin and end tokens"),
        ({"sizes": (4, 4), "template": "{level}{code}", "begin": "a1", "end": "x"}, "alike"),
        ({"sizes": (4, 4), "begin": "x", "end": "<s_b_3>"}, "alike"),
        ({"sizes": (4,), "template": "{{level}ode}{code}"}, "once each"),
        ({"sizes": (4,), "template": "{level}{code}" + "x" * 52}, "has 65 bytes, not 1 to 64"),
        ({"sizes": (4,), "template": "{level}{code}\x1b[31m"}, "control character"),
        ({"sizes": (4,), "template": "{level}{code}\ud800"}, "control character"),
        ({"sizes": (4,), "begin": "", "end": "x"}, "has 0 bytes"),
        ({"sizes": (4,), "begin": "é" * 33, "end": "x"}, "has 66 bytes"),
        ({"sizes": (4,), "begin": "a\nb", "end": "x"}, "control character"),
    ],
)
def test_an_invalid_space_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SidSpace(**arguments)


def test_begin_and_end_may_look_like_codes_outside_of_the_levels() -> None:
    assert len(set(SidSpace((4, 4), begin="<s_a_4>", end="<s_c_1>").tokens)) == 10
    assert SidSpace((4, 4), begin="<s_a_04>", end="<s_b_01>").parse("<s_a_1><s_b_1>") == (1, 1)


def test_spaces_around_tokens_belong_to_them() -> None:
    space = SidSpace((4, 4), " <{level}{code}> ", begin=" x", end="y ")
    for begin_end_tokens in (False, True):
        assert space.parse(space.spell([1, 2], begin_end_tokens=begin_end_tokens)) == (1, 2)


affixes = st.text("{}abcdelov01", max_size=6)


@given(sizes, affixes, affixes, affixes, st.booleans())
def test_every_accepted_template_spells_codes_differently(
    sizes: tuple[int, ...], before: str, between: str, after: str, level_first: bool
) -> None:
    slots = ("{level}", "{code}") if level_first else ("{code}", "{level}")
    try:
        space = SidSpace(sizes, f"{before}{slots[0]}{between}{slots[1]}{after}")
    except UsageError:
        return
    assert len(set(space.tokens)) == sum(sizes) + 2


def test_a_vocabulary_takes_no_memory_before_it_is_spelled() -> None:
    tracemalloc.start()
    try:
        SidSpace((65536,) * 4)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("key", ["sizes", "template", "begin", "end"])
def test_a_stored_space_has_every_key(key: str) -> None:
    stored = SidSpace((4, 4)).to_json()
    del stored[key]
    with pytest.raises(TypeError, match=f"{key} is missing"):
        SidSpace.from_json(stored)


@pytest.mark.parametrize(
    "text",
    ["", "<s_a_1>", "<s_a_1><s_b_4>", "<s_b_1><s_a_1>", "<s_a_1><s_b_1><s_c_1>", "<s_a_01><s_b_1>"],
)
def test_text_that_is_no_sid_is_not_parsed(text: str) -> None:
    with pytest.raises(UsageError, match="not a semantic ID"):
        SidSpace((4, 4)).parse(text)


def test_level_sizes_are_parsed() -> None:
    assert read_sizes("512x128") == (512, 128)
    for text in ("512,128", "9" * 5000):
        with pytest.raises(UsageError, match="level sizes are written like 256x256x256"):
            read_sizes(text)


@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        (0, (1, 1, 1)),
        (20, (16, 16, 16)),
        (31, (16, 16, 16)),
        (32, (32, 32, 32)),
        (102, (32, 32, 32)),
        (103, (64, 32, 32)),
        (300, (128, 64, 64)),
        (1638, (512, 256, 256)),
        (1639, (1024, 512, 512)),
        (2_684_354, (1024, 512, 512)),
        (2_684_355, (2048, 1024, 1024)),
        (10**8, (4096, 2048, 2048)),
    ],
)
def test_levels_follow_from_the_number_of_items(items: int, sizes: tuple[int, ...]) -> None:
    levels = Levels.for_items(items)
    assert levels.sizes == sizes
    assert levels.capacity >= 100 * items
