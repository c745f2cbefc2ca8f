from dataclasses import replace

import numpy as np
import pytest

from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.make.encode import decode
from sidtool.tokenizer.make.explain import explain
from tests.bundles import small_bundle


@pytest.fixture
def bundle() -> Bundle:
    made = small_bundle(items=20, sizes=(3, 4, 5))
    retired = np.zeros(20, dtype=np.bool_)
    retired[4] = True
    return Bundle.of(
        replace(made.items, retired=retired), made.codebook, "reassign", name="retiring"
    )


def test_every_status_is_reported(bundle: Bundle) -> None:
    codes = bundle.items.codes
    free = next(
        code for code in np.ndindex(3, 4, 5) if code not in {tuple(row) for row in codes.tolist()}
    )
    spelled = bundle.space.spell
    text = (
        f"first {spelled(codes[0], begin_end_tokens=True)}, "
        f"then {spelled(codes[4])} and {spelled(free)}; "
        f"{spelled(codes[1][:2])} {spelled([2, 3])}<s_c_9> {spelled(codes[7])}{spelled(codes[8])}"
    )
    decoded = decode(bundle, text)
    assert [piece.status for piece in decoded] == [
        "item",
        "retired",
        "unknown",
        "malformed",
        "malformed",
        "item",
        "item",
    ]
    assert decoded[0].items == (bundle.items.ids[0],)
    assert decoded[1].items == (bundle.items.ids[4],)
    assert decoded[2].items == ()


def test_a_text_without_sids_gives_nothing(bundle: Bundle) -> None:
    assert decode(bundle, "a film like Alien, <s_a_> <b> <s_q_1") == []


def test_retired_items_leave_the_trie(bundle: Bundle) -> None:
    assert len(bundle.active) == 19
    assert 4 not in bundle.active.tolist()
    assert bundle.item_ids(bundle.space.spell(bundle.items.codes[4])) == []


def test_explain_lists_the_words_of_a_group() -> None:
    made = small_bundle(items=30, sizes=(2, 5, 6))
    titles = [
        ("space odyssey" if code[0] else "love story") + f" {row}"
        for row, code in enumerate(made.items.codes.tolist())
    ]
    items = type(made.items).of(made.space, list(made.items.ids), made.items.codes, titles)
    bundle = Bundle.of(items, made.codebook, "reassign", name="films")
    group = explain(bundle, [1], examples=3)
    assert group.items == int((made.items.codes[:, 0] == 1).sum())
    assert {term.word for term in group.terms} == {"space", "odyssey"}
    assert all(term.share == 1.0 for term in group.terms)
    assert len(group.examples) == 3
