"""Groups of items for examples: the beam, samples, added targets and given prefixes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.model.prompt.encoder import prompt_encoder
from sidtool.recommendation.query import Query, QuerySession
from sidtool.training.reinforcement.examples import read_rl_examples
from sidtool.training.reinforcement.groups import GroupMaker, GroupOptions, Rollouts
from sidtool.training.reinforcement.policy import Policy

NUMBERS = np.arange(12)


@pytest.fixture(scope="module")
def loaded(tuned: Path) -> LoadedModel:
    return load_model_folder(tuned)


def make(loaded: LoadedModel, made: Path, size: int = 4, **options: Any) -> tuple[Rollouts, Any]:
    session = QuerySession.of(loaded)
    policy = Policy.of(loaded.model, session.tokens, session.trie, session.normalize)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    examples = read_rl_examples(made, "sequence", encoder, loaded.tokens, loaded.bundle)
    maker = GroupMaker(session, policy, examples, GroupOptions(size, **options))
    generator = torch.Generator().manual_seed(3)
    return maker.make(loaded.model, NUMBERS, generator), maker


def hits(rollouts: Rollouts, maker: Any) -> Any:
    return rollouts.valid & (rollouts.leaves == maker.target_leaves(NUMBERS)[:, None])


def test_a_group_is_the_beam(loaded: LoadedModel, made: Path) -> None:
    rollouts, maker = make(loaded, made)
    session = maker.session
    queries = [Query(session.from_history(maker.examples.history(n))) for n in NUMBERS]
    for row, beam in enumerate(session.search(loaded.model, queries, k=4, num_beams=4)):
        assert rollouts.leaves[row].tolist() == beam.leaves.tolist()
    assert rollouts.valid.all()
    assert 0 < hits(rollouts, maker).sum() < len(NUMBERS)  # some groups have no signal


def test_added_targets_are_in_every_group(loaded: LoadedModel, made: Path) -> None:
    without, _ = make(loaded, made)
    rollouts, maker = make(loaded, made, add_target=True)
    assert hits(rollouts, maker).sum(axis=1).tolist() == [1] * len(NUMBERS)
    assert (rollouts.leaves[:, :-1] == without.leaves[:, :-1]).all()


def test_seen_items_are_excluded(loaded: LoadedModel, made: Path) -> None:
    for method in ("beam", "gumbel"):
        rollouts, maker = make(loaded, made, method=method, exclude_seen=True)
        for row, number in enumerate(NUMBERS.tolist()):
            positions = maker.session.trie.positions(maker.examples.history(number))
            seen = maker.session.trie.leaves(positions)
            assert not np.isin(rollouts.leaves[row], seen).any()


def test_given_prefixes_lead_to_the_target(loaded: LoadedModel, made: Path) -> None:
    plain, maker = make(loaded, made)
    rollouts, _ = make(loaded, made, prefix_curriculum=True)
    had_hit = hits(plain, maker).any(axis=1)
    assert (rollouts.n_given[had_hit] == 0).all()
    given = rollouts.n_given > 0
    assert given.any()
    assert hits(rollouts, maker)[given].any(axis=1).all()
    trie = maker.session.trie
    targets = trie.leaf_codes(maker.target_leaves(NUMBERS))
    for row in np.flatnonzero(given).tolist():
        n_given = int(rollouts.n_given[row])
        codes = trie.leaf_codes(rollouts.leaves[row][rollouts.valid[row]])
        assert len(codes) > 1
        assert (codes[:, :n_given] == targets[row, :n_given]).all()


def test_small_catalogs_leave_places_empty(loaded: LoadedModel, made: Path) -> None:
    for method in ("beam", "gumbel"):
        rollouts, _ = make(loaded, made, size=50, method=method)
        assert rollouts.valid.sum(axis=1).tolist() == [40] * len(NUMBERS)
        assert rollouts.valid[:, :40].all()
        assert rollouts.leaves.min() >= 0
    assert rollouts.probabilities is not None
    np.testing.assert_allclose(rollouts.probabilities.sum(axis=1), 1, rtol=1e-4)


def test_samples_are_in_order_of_their_probability(loaded: LoadedModel, made: Path) -> None:
    rollouts, maker = make(loaded, made, method="gumbel", add_target=True)
    assert rollouts.probabilities is not None
    assert rollouts.inclusion is not None
    assert (np.diff(rollouts.probabilities, axis=1) <= 0).all()
    found = hits(rollouts, maker)
    assert found.sum(axis=1).tolist() == [1] * len(NUMBERS)
    assert (rollouts.inclusion[found] == 1).all()
    # the probability of each target is that of exact scoring
    queries = [Query(prompt) for prompt in rollouts.prompts]
    rows = maker.examples.targets[NUMBERS]
    scores = replace(maker.session, mixture=None).score(loaded.model, queries, np.unique(rows))
    exact = np.exp(scores[np.arange(len(rows)), np.searchsorted(np.unique(rows), rows)])
    np.testing.assert_allclose(rollouts.probabilities[found], exact, rtol=1e-3)
