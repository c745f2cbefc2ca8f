"""Rows of a batch at any place of a SID, against a dictionary of prefixes, and the extra arguments
of a request."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError, SidtoolWarning, UsageError
from sidtool.integrations.vllm import row_constraint
from sidtool.integrations.vllm.row_constraint import (
    NO_TOKEN,
    RequestSettings,
    RowConstraint,
    check_engine_model,
)
from sidtool.model.contract.compat import Verdict, usable_items
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.results import Normalize
from tests.bundles import small_bundle
from tests.integrations.vllm.cases import Layout
from tests.loaded import loaded_model

torch.set_num_threads(1)

SIZES = (4, 5, 6)


def constraint_of(
    normalize: Normalize = "level", *, begin_end_tokens: bool = True, layout: Layout = "block"
) -> Any:
    """A table has its ids in no order, and none for the last code."""
    bundle = small_bundle(40, SIZES, begin_end_tokens=begin_end_tokens, duplicates=True)
    contract = loaded_model(bundle).contract
    if layout == "table":
        ids = np.random.default_rng(3).permutation(60)[: len(bundle.space.tokens)].tolist()
        ids[bundle.space.n_codes - 1] = -1
        tokens = SidTokens.of_ids(bundle.space, ids)
        contract = replace(contract, token_start=tokens.start, token_table=tokens.table)
        with pytest.warns(SidtoolWarning, match="have a code without a token"):
            bundle = usable_items(bundle, tokens)
    return RowConstraint(bundle, contract, normalize, Verdict("same"))


def spelled(constraint: Any, prefix: Sequence[int]) -> list[int]:
    """The token ids of a prefix, from the contract's own fields."""
    contract = constraint.contract
    if contract.token_table is not None:
        return [contract.token_table.codes[level][code] for level, code in enumerate(prefix)]
    first = [contract.token_start + sum(SIZES[:level]) for level in range(len(SIZES))]
    return [first[level] + code for level, code in enumerate(prefix)]


@settings(deadline=None)
@given(
    normalize=st.sampled_from(("level", "trie", "vocabulary")),
    layout=st.sampled_from(("block", "table")),
    rows=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2)), min_size=1, max_size=6),
    denied=st.sets(st.integers(0, 39), max_size=39),
    seed=st.integers(0, 99),
)
def test_valid_tokens_get_their_log_probability(
    normalize: Normalize, layout: Layout, rows: list[tuple[int, int]], denied: set[int], seed: int
) -> None:
    constraint = constraint_of(normalize, layout=layout)
    items = constraint.bundle.items
    active = constraint.bundle.active.tolist()
    codes = {row: items.codes[row].tolist() for row in active}
    tokens = constraint.contract.tokens
    deny = tuple(items.ids[row] for row in denied)
    logits = torch.randn(len(rows), tokens.stop, generator=torch.Generator().manual_seed(seed))
    prefixes = [codes[active[item % len(active)]][:length] for item, length in rows]
    before = [9, 8, tokens.begin]
    tails = [constraint.tail(before, spelled(constraint, prefix)) for prefix in prefixes]
    leaf_filter = constraint.leaf_filter(RequestSettings(deny=deny))
    out = constraint.apply(logits.clone(), torch.tensor(tails), [leaf_filter] * len(rows))
    for row, prefix in enumerate(prefixes):
        n = len(prefix)
        ids = [spelled(constraint, [*prefix, code])[n] for code in range(SIZES[n])]
        continuing = following(codes, prefix, set())
        columns = {
            "vocabulary": logits[row],
            "level": logits[row, [token_id for token_id in ids if token_id >= 0]],
            "trie": logits[row, [ids[code] for code in sorted(continuing)]],
        }[normalize]
        want = torch.full((tokens.stop,), -torch.inf)
        places = [ids[code] for code in following(codes, prefix, denied)]
        want[places] = logits[row, places] - columns.logsumexp(-1)
        torch.testing.assert_close(out[row], want)


def following(
    codes: Mapping[int, Sequence[int]], prefix: Sequence[int], denied: set[int]
) -> set[int]:
    """The codes of items that are not denied and begin with a prefix, at the level behind it."""
    n = len(prefix)
    return {sid[n] for item, sid in codes.items() if item not in denied and sid[:n] == prefix}


def test_logits_are_overwritten_and_summed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine has hundreds of rows of a whole vocabulary: copies take longer than the rest."""
    constraint = constraint_of("vocabulary")
    tokens = constraint.contract.tokens
    tails = torch.tensor([constraint.tail([tokens.begin], ())] * 5)
    logits = torch.randn(5, tokens.stop, generator=torch.Generator().manual_seed(0))
    want = constraint.apply(logits.clone(), tails, [None] * 5)
    monkeypatch.setattr(row_constraint, "CHUNK", 2 * tokens.stop)
    out = constraint.apply(logits, tails, [None] * 5)
    assert out is logits
    torch.testing.assert_close(out, want)


@pytest.mark.parametrize("layout", ["block", "table"])
def test_a_row_that_has_left_the_trie_has_no_valid_token(layout: Layout) -> None:
    constraint = constraint_of(layout=layout)
    tokens = constraint.contract.tokens
    second_code = spelled(constraint, [0, 0])[1]
    tails = torch.tensor([constraint.tail([second_code, second_code], ())])
    assert (constraint.apply(torch.zeros(1, tokens.stop), tails, [None]) == -torch.inf).all()


@pytest.mark.parametrize("layout", ["block", "table"])
@pytest.mark.parametrize("begin_end_tokens", [True, False])
def test_sids_follow_one_another(begin_end_tokens: bool, layout: Layout) -> None:
    constraint = constraint_of(begin_end_tokens=begin_end_tokens, layout=layout)
    tokens = constraint.contract.tokens
    generator = torch.Generator().manual_seed(0)
    written: list[int] = []
    length = 2 * (len(SIZES) + 2 * begin_end_tokens)
    for _ in range(length):
        tails = torch.tensor([constraint.tail([7, 7, 7, 7], written)])
        logits = torch.zeros(1, tokens.stop)
        probs = constraint.apply(logits, tails, [None]).exp()
        written.append(int(torch.multinomial(probs[0], 1, generator=generator)))
    sids = np.array(written).reshape(2, -1)
    if begin_end_tokens:
        assert (sids[:, 0] == tokens.begin).all()
        assert (sids[:, -1] == tokens.end).all()
        sids = sids[:, 1:-1]
    active = constraint.bundle.items.codes[constraint.bundle.active]
    assert set(map(tuple, sids.tolist())) <= {
        tuple(spelled(constraint, codes)) for codes in active.tolist()
    }


def test_a_tail_has_as_many_tokens_as_a_sid() -> None:
    constraint = constraint_of()
    assert constraint.tail([1, 2, 3, 4], ()) == [2, 3, 4]
    assert constraint.tail([1, 2, 3, 4], [5]) == [3, 4, 5]
    assert constraint.tail([1], [5, 6, 7, 8]) == [6, 7, 8]
    assert constraint.tail([], [5]) == [NO_TOKEN, NO_TOKEN, 5]


def test_a_filter_names_items_that_the_bundle_has() -> None:
    constraint = constraint_of()
    assert constraint.leaf_filter(RequestSettings()) is None
    allowed = constraint.leaf_filter(RequestSettings(allow=("i3", "gone")))
    passing = allowed.passes(np.arange(allowed.trie.n_items))
    assert np.flatnonzero(passing).tolist() == [constraint.bundle.items.row("i3")]
    # the requests of a beam search share the filter of their prompt
    assert allowed is constraint.leaf_filter(RequestSettings(allow=("i3", "gone")))


def test_models_that_an_engine_cannot_serve_are_refused() -> None:
    contract = constraint_of().contract
    with pytest.raises(CompatibilityError, match="encoder-decoder model: the plug-in"):
        check_engine_model("m", replace(contract, kind="encoder-decoder"))
    adapters: Any = replace(contract, base_folder="elsewhere")
    with pytest.raises(CompatibilityError, match="adapters over another model"):
        check_engine_model("m", adapters)


@pytest.mark.parametrize(
    "settings",
    [
        RequestSettings(),
        RequestSettings(constrained=False),
        RequestSettings(allow=(), deny=("a", "b")),
        RequestSettings(allow=("c",)),
    ],
)
def test_settings_survive_the_way_to_the_engine(settings: RequestSettings) -> None:
    assert RequestSettings.of(settings.to_extra_args()) == settings


def test_other_arguments_are_left_to_others() -> None:
    assert RequestSettings.of({"kv_transfer": 1}) == RequestSettings.of(None) == RequestSettings()


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"sid_denied": ["a"]}, "no extra argument 'sid_denied', only sid_constraint"),
        ({"sid_constraint": "no"}, "sid_constraint is true or false, not 'no'"),
        ({"sid_deny": "a"}, "sid_deny is a list of item ids, not 'a'"),
        ({"sid_allow": [1]}, "sid_allow is a list of item ids"),
    ],
)
def test_a_misspelt_argument_is_refused(extra_args: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RequestSettings.of(extra_args)
