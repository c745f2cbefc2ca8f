"""What a memory says of the targets of training examples, against memories that are built again
without the example's user."""

from dataclasses import replace

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, DataError
from sidtool.data.split.split import Split
from sidtool.data.split.values import UserSequence
from sidtool.examples.example_file import TokenizedExample, TokenizedExamples
from sidtool.memory.build import build_memory
from sidtool.memory.distribution import MemoryIndex
from sidtool.model.prompt.tokens import SidTokens
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.loss.augment import Augmentation, AugmentedExamples, item_spans
from sidtool.training.loss.batches import IGNORED, PackedCollator, PaddedCollator
from sidtool.training.loss.memory_examples import MemoryExamples, MemoryOfUsers
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, split_of


def with_retired(bundle: Bundle, row: int) -> Bundle:
    """The bundle with one item retired: it stays in histories and is not recommended."""
    retired = np.arange(len(bundle.items)) == row
    items = replace(bundle.items, retired=retired)
    return Bundle.of(items, bundle.codebook, "reassign", name="retired")


BUNDLE = with_retired(small_bundle(12), 3)
TOKENS = SidTokens(BUNDLE.space, 20)
SPLIT = split_of(random_histories(5, 12, 12, longest=10))
MEMORY = build_memory(SPLIT, BUNDLE)
POWER = 1.5


def encoded(items: tuple[str, ...]) -> TokenizedExample:
    """A whole history as SIDs; the first token is no target."""
    ids = TOKENS.ids(BUNDLE.items.codes[BUNDLE.items.rows(items)]).ravel().astype(np.int32)
    targets = (ids >= TOKENS.start) & (ids < TOKENS.start + TOKENS.space.n_codes)
    targets[0] = False
    return TokenizedExample(ids, targets, np.ones(len(ids), np.float32), is_sequence=True)


def tokenized(split: Split) -> TokenizedExamples:
    examples = [encoded(sequence.items) for sequence in split.train]
    lengths = [len(example.ids) for example in examples]
    return TokenizedExamples(
        np.concatenate([example.ids for example in examples]),
        np.concatenate([example.targets for example in examples]),
        np.concatenate([example.weights for example in examples]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.ones(len(examples), dtype=np.bool_),
        [sequence.user for sequence in split.train],
    )


def items_of(example: TokenizedExample) -> list[int]:
    """The bundle rows of the items that an example shows."""
    edge = int(TOKENS.space.has_begin_end_tokens)
    starts = item_spans(example.ids, TOKENS)[:, 0] + edge
    codes = example.ids[starts[:, None] + np.arange(TOKENS.space.levels)] - TOKENS.level_starts
    return BUNDLE.items.rows_at(codes.astype(np.uint16))[0].tolist()


def recounted(user: UserSequence) -> MemoryIndex:
    others = tuple(each for each in SPLIT.train if each != user)
    return MemoryIndex.of(build_memory(Split("leave-one-out", others, (), ()), BUNDLE), BUNDLE)


@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(), Augmentation(0.4), Augmentation(0.3, reverse_prob=1.0, shuffle_span=0.5)],
)
def test_targets_have_the_probabilities_of_a_memory_without_their_user(
    augmentation: Augmentation,
) -> None:
    examples = tokenized(SPLIT)
    varied = AugmentedExamples(examples, augmentation, TOKENS, seed=1)
    memory = MemoryOfUsers.of(MEMORY, POWER, SPLIT, BUNDLE)
    mixed = MemoryExamples(varied, examples.users, memory, TOKENS)
    assert len(mixed) == len(SPLIT.train)
    values = []
    for number, user in enumerate(SPLIT.train):
        example = mixed[number]
        assert example.ids.tolist() == varied[number].ids.tolist()
        assert example.memory_log_probs is not None
        index = recounted(user)
        rows = items_of(example)
        expected = []
        for place, row in enumerate(rows):
            (distribution,) = index.distributions([np.array(rows[:place], dtype=np.int64)], POWER)
            value = np.nan
            if len(distribution) and row in BUNDLE.active:
                position = np.searchsorted(BUNDLE.active, [row])
                value = distribution.log_probs_at(position)[0]
            expected += [value] * TOKENS.space.levels
        is_code = (example.ids >= TOKENS.start) & (
            example.ids < TOKENS.start + TOKENS.space.n_codes
        )
        np.testing.assert_allclose(example.memory_log_probs[is_code], expected, rtol=1e-5)
        assert np.isnan(example.memory_log_probs[~is_code]).all()
        values += expected
    assert np.isnan(values).any()
    assert np.isneginf(values).any()
    assert np.isfinite(values).mean() > 0.3


def test_batches_carry_the_probabilities_to_their_targets() -> None:
    examples = tokenized(SPLIT)
    memory = MemoryOfUsers.of(MEMORY, POWER, SPLIT, BUNDLE)
    mixed = MemoryExamples(examples, examples.users, memory, TOKENS)
    batch = [mixed[number] for number in range(len(mixed))]
    values = []
    for collate in (PaddedCollator(0), PackedCollator(0)):
        tensors = collate(batch)
        is_target = tensors["labels"] != IGNORED
        labels = tensors["labels"][is_target].tolist()
        log_probs = tensors["memory_log_probs"][is_target].numpy().round(4).tolist()
        values.append(sorted(map(str, zip(labels, log_probs, strict=True))))
    assert values[0] == values[1]
    assert "memory_log_probs" not in PaddedCollator(0)([examples[0]])


def test_an_example_without_a_user_has_no_memory() -> None:
    examples = tokenized(SPLIT)
    memory = MemoryOfUsers.of(MEMORY, POWER, SPLIT, BUNDLE)
    mixed = MemoryExamples(examples, [""] * len(examples), memory, TOKENS)
    log_probs = mixed[0].memory_log_probs
    assert log_probs is not None
    assert np.isnan(log_probs).all()


def test_examples_of_other_events_and_shared_sids_are_refused() -> None:
    examples = tokenized(SPLIT)
    memory = MemoryOfUsers.of(MEMORY, POWER, SPLIT, BUNDLE)
    for users in (["u1", "u0"], ["nobody"] * 2):
        mixed = MemoryExamples(examples, users, memory, TOKENS)
        with pytest.raises(DataError, match="shows an item that user"):
            mixed[0]
    shared = small_bundle(40, duplicates=True)
    assert len(np.unique(shared.items.keys)) < len(shared.items)
    with pytest.raises(CompatibilityError, match="share a SID"):
        MemoryOfUsers.of(build_memory(SPLIT, shared), POWER, SPLIT, shared)
