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
from sidtool.training.reinforcement.advantages import sampled_advantages
from sidtool.training.reinforcement.examples import RlExamples, read_rl_examples
from sidtool.training.reinforcement.groups import GroupMaker, Rollouts
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.settings import RlOptions

NUMBERS = np.arange(12)


@pytest.fixture(scope="module")
def loaded(tuned: Path) -> LoadedModel:
    return load_model_folder(tuned)


def make(loaded: LoadedModel, made: Path, size: int = 4, **options: Any) -> tuple[Rollouts, Any]:
    session = QuerySession.of(loaded)
    policy = Policy.of(loaded.model, session.tokens, session.trie, session.normalize)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    examples = read_rl_examples(made, "sequence", encoder, loaded.tokens, loaded.bundle)
    maker = GroupMaker(session, policy, examples, size, RlOptions(**options))
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


def test_seen_items_are_excluded(loaded: LoadedModel, made: Path) -> None:
    for method in ("beam", "gumbel"):
        rollouts, maker = make(loaded, made, rollouts=method, exclude_seen=True)
        for row, number in enumerate(NUMBERS.tolist()):
            positions = maker.session.trie.positions(maker.examples.history(number))
            seen = maker.session.trie.leaves(positions)
            assert not np.isin(rollouts.leaves[row], seen).any()


def test_small_catalogs_leave_places_empty(loaded: LoadedModel, made: Path) -> None:
    for method in ("beam", "gumbel"):
        rollouts, _ = make(loaded, made, size=50, rollouts=method)
        assert rollouts.valid.sum(axis=1).tolist() == [40] * len(NUMBERS)
        assert rollouts.valid[:, :40].all()
        assert rollouts.leaves.min() >= 0
    assert rollouts.probabilities is not None
    np.testing.assert_allclose(rollouts.probabilities.sum(axis=1), 1, rtol=1e-4)


def test_samples_are_in_order_of_their_probability(loaded: LoadedModel, made: Path) -> None:
    rollouts, maker = make(loaded, made, rollouts="gumbel")
    assert rollouts.probabilities is not None
    assert (np.diff(rollouts.probabilities, axis=1) <= 0).all()
    # the probability of each item is that of exact scoring
    queries = [Query(prompt) for prompt in rollouts.prompts]
    session = replace(maker.session, mixture=None)
    scores = session.score(loaded.model, queries, np.arange(40))  # (n, leaves)
    exact = np.exp(np.take_along_axis(scores, np.asarray(rollouts.leaves), axis=1))
    np.testing.assert_allclose(rollouts.probabilities, exact, rtol=1e-3)


@pytest.mark.parametrize(
    ("size", "draws"), [(24, 1), pytest.param(5, 3000, marks=pytest.mark.slow)]
)
def test_the_gradient_is_that_of_the_expected_reward_of_what_may_be_drawn(
    loaded: LoadedModel, made: Path, size: int, draws: int
) -> None:
    """Against the exact gradient by the logits of a softmax over all SIDs. A group of 24 holds all
    unseen items: nothing is left to chance."""
    _, maker = make(loaded, made, rollouts="gumbel", exclude_seen=True)
    seen = np.arange(0, 36, 2)
    examples = RlExamples(seen, np.zeros(1, int), np.full(1, 18), np.full(1, 37), None, ("",), 0)
    maker = replace(maker, examples=examples, size=size)
    scores = maker.session.score(
        loaded.model, [Query(examples.prompt(maker.session, 0))], np.arange(40)
    )[0]
    p = np.exp(scores.astype(np.float64))  # (40,) of each leaf, which is an item's
    may_be_drawn = np.ones(40, dtype=np.bool_)
    may_be_drawn[seen] = False
    mass = p[may_be_drawn].sum()
    assert 0.1 < mass < 0.9
    q = np.where(may_be_drawn, p / mass, 0.0)
    rewards = np.where(np.arange(40) % 3 == 0, 1.0, 0.0)
    # its reward is below the expected one, and it would seem to be above without dividing by `mass`
    worse = int(np.argmax(np.where(rewards == 0, q, 0.0)))
    factor = ((2 - mass) * mass + 1) / 2
    rewards[worse] = factor * (q @ rewards) / (1 - factor * q[worse])
    expected = q * (rewards - q @ rewards)
    assert expected[worse] < 0 < rewards[worse] - (2 - mass) * mass * (q @ rewards)

    rollouts = maker.make(
        loaded.model, np.zeros(draws, dtype=np.int64), torch.Generator().manual_seed(0)
    )
    advantages = sampled_advantages(
        rewards[rollouts.leaves], rollouts.probabilities, rollouts.inclusion, rollouts.valid
    )
    # the gradient of log p(item) by the logits: one-hot less the probabilities
    directions = np.eye(40)[rollouts.leaves] - p  # (draws, size, 40)
    gradients = (advantages[..., None] * directions).mean(axis=1)
    error = gradients.std(axis=0) / np.sqrt(draws)
    assert (np.abs(gradients.mean(axis=0) - expected) <= 4 * error + 1e-6).all()
    assert gradients.mean(axis=0)[worse] < 0
