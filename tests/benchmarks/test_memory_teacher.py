"""The teacher of `benchmarks/memory_teacher.py` against loops."""

import numpy as np
import pytest
import torch

from sidtool.examples import TokenizedExample
from sidtool.memory.build import build_memory
from sidtool.memory.manifest import KnnSettings
from sidtool.model.vocabulary import SidTokens
from sidtool.training.loss.batches import Targets, packed_batch
from sidtool.training.loss.loss import Loss
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, split_of

SIZES = (3, 3, 3)
FIRST = 10
POWER = 1.5


def similarity_without(
    user: int, histories: list[list[int]], settings: KnnSettings, n: int
) -> np.ndarray:
    """(n, n): similarities of items, counted in the histories of all other users."""
    counts, events = np.zeros((n, n)), np.zeros(n)
    for number, items in enumerate(histories):
        for place, earlier in enumerate(items):
            events[earlier] += 1
            for gap, later in enumerate(items[place + 1 :]):
                if number != user and earlier != later:
                    counts[earlier, later] += settings.distance**gap
                    counts[later, earlier] += settings.reverse * settings.distance**gap
    products = np.maximum(np.outer(events, events), 1)
    return counts / (products**settings.normalization + settings.shrinkage)


@pytest.mark.parametrize("backward", [False, True])
def test_the_teacher_knows_the_pairs_of_other_users_alone(backward: bool) -> None:
    from memory_teacher import MemoryTeacher

    bundle = small_bundle(20, SIZES, duplicates=False, begin_end_tokens=False)
    names = random_histories(3, 25, 20)
    histories = [bundle.items.rows(items).tolist() for items in names]
    settings = KnnSettings(0.8, 0.3, 0.3, 0.1, recency=0.7)
    memory = build_memory(split_of(names), bundle, settings)
    loss = Loss("trie", SidTokens(bundle.space, FIRST), bundle.trie())
    firsts = FIRST + np.cumsum([0, *SIZES[:-1]])
    codes = np.asarray(bundle.items.codes).astype(np.int64)
    users = [number for number, items in enumerate(histories) if len(items) > 2][:6]
    batch = []
    for user in users:
        items = histories[user][::-1] if backward else histories[user]
        ids = (firsts + codes[items]).ravel().astype(np.int32)
        targets = np.arange(len(ids)) > 0
        batch.append(TokenizedExample(ids, targets, np.ones(len(ids), dtype=np.float32)))
    inputs = packed_batch(batch, pad=0)
    is_reversed = {each.ids.astype(np.int64).tobytes(): backward for each in batch}
    teacher = MemoryTeacher(memory, loss, POWER, is_reversed)
    targets = Targets.pop(dict(inputs), len(SIZES))
    parts = loss.parts(targets.ids)
    requests = [(targets.positions[indexes], columns) for indexes, columns in parts]
    blocks = teacher.blocks(inputs, requests)[0]
    expected: dict[tuple[int, ...], list[np.ndarray]] = {}
    for user, example in zip(users, batch, strict=True):
        similarity = similarity_without(user, histories, settings, 20)
        items = histories[user][::-1] if backward else histories[user]
        for place in range(1, len(items)):
            ages = np.arange(place)[::-1]
            rows = similarity[:, items[:place]].T if backward else similarity[items[:place]]
            scores = ((settings.recency**ages) @ rows) ** POWER
            answer = codes[items[place]]
            found = []
            for level, size in enumerate(SIZES):
                behind = (codes[:, :level] == answer[:level]).all(1)
                sums = np.bincount(codes[behind, level], scores[behind], minlength=size)
                if not sums.any():
                    sums[answer[level]] = 1
                found.append(sums / sums.sum())
            expected[tuple(example.ids[: 3 * (place + 1)].tolist())] = found
    ids, positions = inputs["input_ids"].ravel(), inputs["position_ids"].ravel()
    n_compared = 0
    for level, (places, _) in enumerate(requests):
        for row, place in enumerate(places.tolist()):
            end = place + len(SIZES) - level + 1
            prefix = tuple(ids[place - int(positions[place]) : end].tolist())
            if prefix in expected:
                got = torch.softmax(blocks[level][row], -1).numpy()
                np.testing.assert_allclose(got, expected[prefix][level], atol=1e-5)
                n_compared += 1
    assert n_compared == 3 * sum(len(histories[user]) - 1 for user in users)
