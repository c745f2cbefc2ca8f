from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.model.prompt.segments import prompt_encoder
from sidtool.recommendation.query import Query, QuerySession
from sidtool.training.reinforcement.examples import read_rl_examples
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.rewards.reward import lacks_signal
from sidtool.training.reinforcement.rollouts import GroupMaker

NUMBERS = np.arange(12)


@pytest.fixture(scope="module")
def loaded(tuned: Path) -> LoadedModel:
    return load_model_folder(tuned)


def make(loaded: LoadedModel, made: Path, **options: bool) -> tuple[Any, GroupMaker]:
    session = QuerySession.of(loaded)
    policy = Policy.of(loaded.model, session.tokens, session.trie, session.normalize)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    examples = read_rl_examples(made, "sequence", encoder, loaded.bundle, **options)
    maker = GroupMaker(session, policy, examples, size=4)
    return maker.make(loaded.model, NUMBERS)[1], maker


def test_a_group_is_the_beam(loaded: LoadedModel, made: Path) -> None:
    leaves, maker = make(loaded, made)
    session = maker.session
    queries = [Query(session.from_history(maker.examples.history(n))) for n in NUMBERS]
    for row, beam in enumerate(session.search(loaded.model, queries, k=4, num_beams=4)):
        assert leaves[row].tolist() == beam.leaves.tolist()
    assert (leaves >= 0).all()
    hits = leaves == maker.target_leaves(NUMBERS)[:, None]
    assert 0 < hits.sum() < len(NUMBERS)  # some groups have no signal


def test_seen_items_are_excluded(loaded: LoadedModel, made: Path) -> None:
    leaves, maker = make(loaded, made, exclude_seen=True)
    for row, number in enumerate(NUMBERS.tolist()):
        positions = maker.session.trie.positions(maker.examples.history(number))
        assert not np.isin(leaves[row], maker.session.trie.leaves(positions)).any()


def test_equal_rewards_give_no_signal() -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 9.0], [2.0, 2.0, 2.0, 2.0]])
    valid = np.array([[True, True, True, False], [True, True, True, True]])
    assert lacks_signal(rewards, valid).tolist() == [False, True]
    not_first = np.array([[False, True, True, False]] * 2)
    assert lacks_signal(rewards, not_first).tolist() == [True, True]
