"""The distributions of a memory that teaches, against loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.examples.example_file import TokenizedExample
from sidtool.memory import Memory
from sidtool.memory.build import build_memory
from sidtool.memory.manifest import KnnSettings
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.loss.batches import Targets, packed_batch, padded_batch
from sidtool.training.loss.loss import Loss
from sidtool.training.loss.memory_teacher import MemoryTeacher
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, split_of

SIZES = (3, 3, 3)
N_ITEMS = 20
SETTINGS = KnnSettings(0.8, 0.3, 0.3, 0.1, recency=0.7)


def similarity_without(user: int, histories: list[list[int]]) -> np.ndarray:
    """(items, items): similarities of items, counted in the histories of all other users."""
    counts, events = np.zeros((N_ITEMS, N_ITEMS)), np.zeros(N_ITEMS)
    for number, items in enumerate(histories):
        for place, earlier in enumerate(items):
            events[earlier] += 1
            for gap, later in enumerate(items[place + 1 :]):
                if number != user and earlier != later:
                    counts[earlier, later] += SETTINGS.distance**gap
                    counts[later, earlier] += SETTINGS.reverse * SETTINGS.distance**gap
    products = np.maximum(np.outer(events, events), 1)
    return counts / (products**SETTINGS.normalization + SETTINGS.shrinkage)


def taught(memory: Memory, bundle: Bundle, inputs: Any) -> tuple[Targets, Any, Any]:
    """Targets of a batch, their parts, and what the memory teaches of each part."""
    loss = Loss("trie", SidTokens(bundle.space, 10), bundle.trie())
    targets = Targets.pop(inputs, len(SIZES))
    parts = loss.parts(targets.ids)
    places = [(targets.positions[indexes], columns) for indexes, columns in parts]
    is_reversed = [targets.is_reversed[indexes] for indexes, _ in parts]
    teacher = MemoryTeacher(memory, loss.tokens, bundle.trie())
    return targets, parts, teacher.blocks(inputs, places, is_reversed)


@pytest.mark.parametrize("make_batch", [packed_batch, padded_batch])
@pytest.mark.parametrize("backward", [False, True])
def test_a_memory_teaches_what_it_counted_of_other_users(
    make_batch: Callable[..., dict[str, torch.Tensor]], backward: bool
) -> None:
    bundle = small_bundle(N_ITEMS, SIZES, begin_end_tokens=False)
    names = random_histories(3, 25, N_ITEMS)
    histories = [bundle.items.rows(items).tolist() for items in names]
    memory = build_memory(split_of(names), bundle, SETTINGS)
    firsts = 10 + np.cumsum([0, *SIZES[:-1]])
    codes = np.asarray(bundle.items.codes).astype(np.int64)
    users = [number for number, items in enumerate(histories) if len(items) > 2][:6]
    batch = []
    expected: dict[tuple[int, ...], list[np.ndarray]] = {}
    for user in users:
        items = histories[user][::-1] if backward else histories[user]
        ids = (firsts + codes[items]).ravel().astype(np.int32)
        ones = np.ones(len(ids), dtype=np.float32)
        batch.append(TokenizedExample(ids, np.arange(len(ids)) > 0, ones, is_reversed=backward))
        similarity = similarity_without(user, histories)
        for place in range(1, len(items)):
            ages = np.arange(place)[::-1]
            rows = similarity[:, items[:place]].T if backward else similarity[items[:place]]
            scores = (SETTINGS.recency**ages) @ rows
            answer = codes[items[place]]
            distributions = expected.setdefault(tuple(ids[: 3 * (place + 1)].tolist()), [])
            for level, size in enumerate(SIZES):
                behind = (codes[:, :level] == answer[:level]).all(1)
                sums = np.bincount(codes[behind, level], scores[behind], minlength=size)
                sums[answer[level]] += not sums.any()
                distributions.append(sums / sums.sum())
    inputs = make_batch(batch, pad=0)
    targets, parts, blocks = taught(memory, bundle, inputs)
    lines = inputs["input_ids"].shape
    flat = inputs["input_ids"].ravel()
    positions = inputs.get("position_ids", torch.arange(lines[1]).expand(lines)).reshape(-1)
    n_compared = 0
    for level, (indexes, _) in enumerate(parts):
        for row, place in enumerate(targets.positions[indexes].tolist()):
            end = place + len(SIZES) - level + 1
            prefix = tuple(flat[place - int(positions[place]) : end].tolist())
            if prefix in expected:
                got = torch.softmax(blocks[level][row], -1).numpy()
                np.testing.assert_allclose(got, expected[prefix][level], atol=1e-5)
                n_compared += 1
    assert n_compared == 3 * sum(len(histories[user]) - 1 for user in users)


@pytest.mark.parametrize(
    ("ids", "n_targets"),
    [
        ([5, 6, 7], (0, 0, 0)),  # text alone
        ([10, 13, 16], (0, 1, 1)),  # nothing is before the first token
        ([10, 13, 16, 11, 14], (1, 2, 1)),  # a SID that the end cuts
        ([10, 13, 16, 12, 15, 17], (1, 2, 2)),  # SIDs that no item has
    ],
)
def test_a_memory_teaches_what_an_example_has(ids: list[int], n_targets: tuple[int, ...]) -> None:
    bundle = small_bundle(N_ITEMS, SIZES, begin_end_tokens=False, duplicates=True)
    memory = build_memory(split_of(random_histories(3, 25, N_ITEMS)), bundle, SETTINGS)
    array = np.array(ids, dtype=np.int32)
    is_target = (array >= 10) & (np.arange(len(ids)) > 0)
    example = TokenizedExample(array, is_target, np.ones(len(ids), dtype=np.float32))
    _, _, blocks = taught(memory, bundle, packed_batch([example], pad=0))
    assert [block.shape for block in blocks] == [(n, 3) for n in n_targets]
    assert all(torch.isfinite(block).all() for block in blocks)
