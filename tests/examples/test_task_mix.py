import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.data import Items
from sidtool.data.split import Split, UserSequence
from sidtool.examples import ExampleMaker, SftOptions
from sidtool.examples.tasks import copies_within, task_rng, token_budgets, tokens_of_mix
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.models import tiny_tokenizer

IDS = tuple(f"i{row}" for row in range(40))
ITEMS = Items(IDS, IDS, IDS, {}, "", "")
SPLIT = Split("leave-one-out", (UserSequence("u", IDS[:9], tuple(range(9))),), (), ())


@given(st.floats(0.1, 3.0), st.integers(0, 5))
def test_a_weight_is_the_mean_number_of_copies(weight: float, seed: int) -> None:
    options = SftOptions({"title-to-sid": weight}, seed=seed)
    maker = ExampleMaker(small_bundle(40), ITEMS, options)
    examples = list(maker.examples(SPLIT))
    assert examples == list(maker.examples(SPLIT))
    assert int(weight) * 40 <= len(examples) <= (int(weight) + 1) * 40


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(("title-to-sid", "sid-to-title", "next-item")),
        st.floats(0.1, 3),
        min_size=1,
    ),
    st.integers(1, 15_000),
    st.integers(0, 3),
)
def test_a_mix_matches_its_budget(weights: dict[str, float], max_tokens: int, seed: int) -> None:
    options = SftOptions(weights, seed=seed, max_tokens=max_tokens)
    maker = ExampleMaker(small_bundle(40), ITEMS, options, tiny_tokenizer())
    examples = list(maker.examples(SPLIT))
    assert examples == list(maker.examples(SPLIT))
    total_weight = sum(weights.values())
    for task, weight in weights.items():
        task_examples = [example for example in examples if example.task == task]
        lengths = [maker.length(example.segments) for example in task_examples]
        budget = int(max_tokens * weight / total_weight)
        assert sum(lengths) <= budget
        if lengths:  # room for one more only because copies have other templates
            repeats = 1 + len(lengths) // 8
            assert budget - sum(lengths) <= max(lengths) * (1 + repeats)


def test_a_budget_needs_tokens_and_a_tokenizer(bundle: Bundle, catalog: Items) -> None:
    mix = {"title-to-sid": 1.0, "sid-to-title": 1.0}
    with pytest.raises(UsageError, match="max_tokens"):
        SftOptions(mix, max_tokens=0)
    with pytest.raises(UsageError, match="needs a tokenizer"):
        ExampleMaker(bundle, catalog, SftOptions(mix, max_tokens=5000))


@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=4), st.integers(1, 10**9))
def test_budgets_of_tasks_give_the_budget_of_the_mix(weights: list[float], tokens: int) -> None:
    mix = {f"task {number}": weight for number, weight in enumerate(weights)}
    budgets = token_budgets(mix, tokens)
    assert token_budgets(mix, tokens_of_mix(mix, budgets)) == budgets
    assert token_budgets(mix, tokens_of_mix(mix, {})) == {}
    if len(mix) > 1:
        # of a mix with so many tokens, the share of task 1 is larger than its budget
        more = int((budgets["task 1"] + 2) * weights[0] / weights[1]) + 2
        with pytest.raises(UsageError, match="are no shares"):
            tokens_of_mix(mix, budgets | {"task 0": more})


def test_a_task_without_examples_spends_no_tokens() -> None:
    assert copies_within([], 100, task_rng("query-to-sid", 0)) == []
