"""docs/extending.md adds a quantizer, a task, a reward, a search, a map format and an engine: they
work, and each takes less than forty lines."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_origin

import numpy as np
import pytest

from sidtool.cli.settings_table import list_settings
from sidtool.data import Items
from sidtool.data.split import Split
from sidtool.examples import TASKS, SftOptions, find_task, make_sft, tasks
from sidtool.integrations.cluster import RunOptions, engines
from sidtool.integrations.cluster.engines import ENGINES
from sidtool.integrations.formats import FORMATS, convert, export_map, outputs
from sidtool.recommendation.search.score import score_sids
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.quantize import METHODS, methods
from sidtool.training.reinforcement.rewards import kinds
from sidtool.training.reinforcement.rewards.kinds import REWARDS, parse_rewards
from sidtool.training.reinforcement.rewards.reward import Groups, RewardContext, reward_sum
from tests.doc_blocks import blocks, page
from tests.integrations.cluster.jobs import double, read_numbers, write_numbers
from tests.search_cases import make, model_of, prompt

KINDS = ("quantizer", "task", "reward", "search", "map format", "engine")
DICTS: tuple[Any, ...] = (METHODS, TASKS, REWARDS, FORMATS, ENGINES)


@pytest.fixture(scope="module")
def added() -> Iterator[dict[str, Any]]:
    """What the page defines, with its entries in the dicts while the tests run."""
    before = [dict(entries) for entries in DICTS]
    names: dict[str, Any] = {}
    for block in blocks(page("extending.md"), "python"):
        exec(block, names)
    yield names
    for entries, old in zip(DICTS, before, strict=True):
        entries.clear()
        entries.update(old)
    find_task.cache_clear()


def test_the_page_has_one_short_block_per_kind() -> None:
    codes = blocks(page("extending.md"), "python")
    assert len(codes) == len(KINDS)
    assert all(len(code.splitlines()) < 40 for code in codes)


def test_a_type_checker_lets_the_dicts_be_added_to() -> None:
    for module, name in (
        (methods, "METHODS"),
        (tasks, "TASKS"),
        (tasks, "BLOCKS"),
        (kinds, "REWARDS"),
        (convert, "FORMATS"),
        (engines, "ENGINES"),
    ):
        assert get_origin(module.__annotations__[name]) is dict


def test_a_quantizer_makes_a_bundle(added: dict[str, Any], tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(45, 8)).astype(np.float32)
    ids = [f"i{row}" for row in range(45)]
    bundle = Bundle.from_vectors(ids, vectors, levels=(8, 8), method="random", seed=3)
    assert len(set(bundle.sids().values())) == 45
    assert np.isin(bundle.codebook.levels[0], vectors).all()
    bundle.save(tmp_path / "random.zarr")
    assert Bundle.broken(tmp_path / "random.zarr") == []
    (setting,) = [entry for entry in list_settings("build-codebook") if "random" in entry.group]
    assert (setting.key, setting.meaning) == ("normalize", "Scale every vector to length 1 first.")


def test_a_task_makes_its_examples(
    added: dict[str, Any], bundle: Bundle, catalog: Items, split: Split, tmp_path: Path
) -> None:
    items = [item for user in split.train for item in user.items]
    unseen = set(items[:3])
    users = [user for user in split.train if not unseen & set(user.items)]
    fewer = replace(split, train=tuple(users))
    seen = {item for user in users for item in user.items}
    out = tmp_path / "train.jsonl"
    make_sft(bundle, catalog, fewer, out, SftOptions(tasks={"new-title-to-sid": 1.0}))
    examples = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(examples) == len(set(catalog.ids) - seen) > 0
    assert {example["task"] for example in examples} == {"new-title-to-sid"}


def test_a_reward_scores_groups(added: dict[str, Any], bundle: Bundle) -> None:
    rng = np.random.default_rng(1)
    items = rng.integers(-1, len(bundle), (20, 5))
    targets = rng.integers(0, len(bundle), 20)
    groups = Groups([np.zeros(0, dtype=np.int64)] * 20, items, targets)
    rewards = reward_sum(parse_rewards("first-code=2"), groups, RewardContext(bundle))
    codes = bundle.items.codes
    for row, column in np.ndindex(items.shape):
        item = items[row, column]
        is_hit = item >= 0 and codes[item, 0] == codes[targets[row], 0]
        assert rewards[row, column] == (2 if is_hit else 0)


def test_a_search_finds_leaves(added: dict[str, Any]) -> None:
    trie, tokens = make((4, 5, 3), 30)
    model = model_of("llama", tokens)
    rng = np.random.default_rng(2)
    prompts = [prompt(rng, length) for length in (3, 7, 5)]
    leaves = added["best_codes"](model, prompts, trie, tokens, 40)  # the beam holds every prefix
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    siblings = codes.repeat(3, axis=0)
    siblings[:, 2] = np.tile(np.arange(3), len(codes))  # every last code behind each prefix
    scores = score_sids(model, prompts, siblings, tokens).reshape(len(prompts), -1, 3)
    prefix_scores = np.log(np.exp(scores).sum(axis=2))
    last = scores[:, np.arange(len(codes)), codes[:, 2]] - prefix_scores
    np.testing.assert_array_equal(leaves, last.argmax(axis=1))


def test_a_map_format_is_written(added: dict[str, Any], bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "sids.tsv"
    assert export_map(bundle, out, "table").files == (out,)  # type: ignore[arg-type]
    assert dict(line.split("\t") for line in out.read_text().splitlines()) == bundle.sids()
    assert outputs().endswith(", table a .tsv file")


def test_an_engine_makes_the_parts(
    added: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = write_numbers(tmp_path / "in")
    # in place of the engine of the default: EngineName, the choices of --engine, is not extended
    monkeypatch.setitem(ENGINES, "local", ENGINES["threads"])
    report = double(tmp_path / "in", tmp_path / "out", RunOptions())
    assert read_numbers(tmp_path / "out") == [2 * number for number in numbers]
    assert report.counts == {"sum": sum(numbers)}
