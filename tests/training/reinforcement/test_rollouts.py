from pathlib import Path

import numpy as np

from sidtool.model.load import load_model_folder
from sidtool.model.prompt.segments import prompt_encoder
from sidtool.recommendation.query import QuerySession
from sidtool.training.reinforcement.examples import read_rl_examples
from sidtool.training.reinforcement.rewards.reward import lacks_signal


def test_seen_items_are_excluded(tuned: Path, made: Path) -> None:
    loaded = load_model_folder(tuned)
    session = QuerySession.of(loaded)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    examples = read_rl_examples(made, "sequence", encoder, loaded.bundle, exclude_seen=True)
    queries = [examples.query(session, number) for number in range(12)]
    for number, result in enumerate(session.search(loaded.model, queries, k=4, num_beams=4)):
        positions = session.trie.positions(examples.history(number))
        assert not np.isin(result.leaves, session.trie.leaves(positions)).any()


def test_equal_rewards_give_no_signal() -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 9.0], [2.0, 2.0, 2.0, 2.0]])
    valid = np.array([[True, True, True, False], [True, True, True, True]])
    assert lacks_signal(rewards, valid).tolist() == [False, True]
    not_first = np.array([[False, True, True, False]] * 2)
    assert lacks_signal(rewards, not_first).tolist() == [True, True]
