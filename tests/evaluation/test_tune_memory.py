"""The weight and power of a memory: the grid against evaluations, and the written model folder."""

from dataclasses import replace

import numpy as np
import pytest

from sidtool.evaluation import EvaluationOptions, TuneMemoryOptions
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.memory_tuning import candidates_of
from sidtool.evaluation.mixture_choice import POWERS, WEIGHTS, Grid, grid_ranks
from sidtool.memory import WeightedMemory
from tests.evaluation.shop import memory_of, trie_model, visits


@pytest.mark.parametrize(("shared", "exclude_seen"), [(False, False), (True, True)])
def test_the_grid_has_the_metric_of_each_mixture(shared: bool, exclude_seen: bool) -> None:
    loaded = trie_model(shared=shared)
    events, examples = visits(users=40)
    memory = memory_of(events, loaded.bundle)
    options = TuneMemoryOptions(num_beams=40, exclude_seen=exclude_seen)
    candidates = candidates_of(loaded, memory, examples, options)
    everyone = np.ones(candidates.users, dtype=np.bool_)
    grid = Grid.of(grid_ranks(candidates), candidates, everyone)
    assert grid.users == len(examples)
    for weight, power in ((0.05, 0.5), (0.3, 2.0), (0.5, 1.0), (0.9, 4.0), (1.0, 1.5)):
        mixture = replace(loaded, memory=WeightedMemory(memory, weight, power))
        how = EvaluationOptions(ks=(10,), exclude_seen=exclude_seen, baselines=False, num_beams=40)
        metrics = evaluate_examples(mixture, examples, events, how).metrics
        value = grid.values[WEIGHTS.index(weight), POWERS.index(power)]
        assert value == pytest.approx(metrics["ndcg@10"], abs=1e-9), (weight, power)
    assert (grid.values[0] == grid.values[0, 0]).all()


def test_of_equal_values_the_smallest_weight_is_chosen() -> None:
    values = np.zeros((len(WEIGHTS), len(POWERS)))
    assert Grid(values, 3).best == (0.0, POWERS[0])
    values[4:7, 5] = 0.2
    values[4, 6] = 0.2
    assert Grid(values, 3).best == (WEIGHTS[4], POWERS[5])
    assert Grid(values, 3).summary == {
        "users": 3.0,
        "ndcg@10 model": 0.0,
        "ndcg@10 memory": 0.0,
        "ndcg@10 mixture": 0.2,
    }
