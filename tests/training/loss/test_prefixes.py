import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidtool.examples.example_file import TokenizedExample, TokenizedExamples
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loss.augment import Augmentation, AugmentedExamples, PrefixExamples

START = 10
TOKENS = SidTokens(SidSpace((4, 3), begin=None, end=None), START)
TEXT = 5
items = st.tuples(st.integers(0, 3), st.integers(0, 2))
sequences = st.tuples(st.lists(items, max_size=3), st.lists(items, min_size=1, max_size=5))


def tokenized(context: list, targets: list, *, begins: bool) -> TokenizedExample:
    """A sequence as `encode_example` gives it: items, of which the last ones are targets."""
    sids = TOKENS.ids(np.array([*context, *targets])).ravel()
    ids = np.concatenate([[1] * begins, sids]).astype(np.int32)
    is_target = np.arange(len(ids)) >= max(1, begins + 2 * len(context))
    weights = np.arange(1, len(ids) + 1, dtype=np.float32)
    return TokenizedExample(ids, is_target, weights, is_sequence=True)


def joined(examples: list[TokenizedExample]) -> TokenizedExamples:
    offsets = np.concatenate([[0], np.cumsum([len(example.ids) for example in examples])])
    parts = (np.concatenate(part) for part in list(zip(*examples, strict=True))[:3])
    is_sequence = np.array([example.is_sequence for example in examples])
    return TokenizedExamples(*parts, offsets, is_sequence)


@given(st.lists(sequences, min_size=1, max_size=4), st.booleans())
def test_every_prefix_is_an_example_once(drawn: list, begins: bool) -> None:
    drawn = [pair for pair in drawn if len(pair[0]) + len(pair[1]) > 1] or [([], [(0, 0), (1, 1)])]
    whole = joined([tokenized(*pair, begins=begins) for pair in drawn])
    prefixes = PrefixExamples(whole, TOKENS, every=True)
    expected = []
    for context, targets in drawn:
        # of all items but the first, the targets
        for place in range(max(1, len(context)), len(context) + len(targets)):
            expected.append([*context, *targets][: place + 1])
    rng = np.random.default_rng(0)
    assert len(prefixes) == len(expected)
    for number, history in enumerate(expected):
        ids, targets, weights, *_ = prefixes.draw(number, rng)
        assert ids[int(begins) :].tolist() == TOKENS.ids(np.array(history)).ravel().tolist()
        assert np.flatnonzero(targets).tolist() == [len(ids) - 2, len(ids) - 1]
        assert weights.tolist() == list(range(1, len(ids) + 1))


def test_one_prefix_is_drawn_per_sequence_and_epoch() -> None:
    history = [(n % 4, n % 3) for n in range(6)]
    examples = joined([tokenized([], history, begins=False)] * 40)
    prefixes = PrefixExamples(examples, TOKENS, every=False)
    assert len(prefixes) == 40
    varied = AugmentedExamples(prefixes, Augmentation(), TOKENS, seed=0)
    epochs = []
    for epoch in range(3):
        varied.vary(epoch, 3)
        epochs.append([len(varied[number].ids) for number in range(40)])
        assert epochs[-1] == [len(varied[number].ids) for number in range(40)]
    assert epochs[0] != epochs[1] != epochs[2]
    # prefixes of two to six items, all of them about equally often
    counts = np.bincount(np.concatenate(epochs))[4::2]
    assert len(counts) == 5
    assert counts.min() >= 10


def test_other_examples_are_unchanged() -> None:
    """A prompt of text and items, whose answer is an item and an end token."""
    sids = TOKENS.ids(np.array([(0, 1), (1, 2), (3, 0)])).ravel()
    ids = np.concatenate([[TEXT], sids, [2]]).astype(np.int32)
    prompted = TokenizedExample(ids, np.arange(len(ids)) >= 5, np.ones(len(ids), np.float32))
    # a text about an item that ends with the first code of another
    title = np.array([START, START + 4, TEXT, TEXT, START + 1], dtype=np.int32)
    written = TokenizedExample(title, np.arange(5) == 3, np.ones(5, np.float32))
    # a list of two items behind a history of one and the question
    sids = TOKENS.ids(np.array([(0, 1), (1, 2), (3, 0)])).ravel()
    ids = np.concatenate([[TEXT], sids[:2], [TEXT], sids[2:], [2]]).astype(np.int32)
    is_code = ids >= START
    listed = TokenizedExample(ids, is_code & (np.arange(len(ids)) > 3), np.ones(8 + 1, np.float32))
    examples = (prompted, written, listed)
    for every in (True, False):
        prefixes = PrefixExamples(joined(list(examples)), TOKENS, every=every)
        assert len(prefixes) == 3
        for number, example in enumerate(examples):
            drawn = prefixes.draw(number, np.random.default_rng(0))
            assert drawn.ids.tolist() == example.ids.tolist()
            assert drawn.targets.tolist() == example.targets.tolist()


def test_what_an_example_is_decides_not_how_it_looks() -> None:
    """An item, text and two target items: a sequence, or a list behind its question."""
    sids = TOKENS.ids(np.array([(0, 1), (1, 2), (3, 0)])).ravel()
    ids = np.concatenate([sids[:2], [TEXT], sids[2:]]).astype(np.int32)
    listed = TokenizedExample(ids, np.arange(7) > 2, np.ones(7, np.float32))
    rng = np.random.default_rng(0)
    for is_sequence, stops in ((True, [5, 7]), (False, [7])):
        example = listed._replace(is_sequence=is_sequence)
        prefixes = PrefixExamples(joined([example]), TOKENS, every=True)
        assert [len(prefixes.draw(n, rng).ids) for n in range(len(prefixes))] == stops
        varied = Augmentation(item_dropout=1.0)(example, TOKENS, rng)
        # an item that is left out takes the text behind it along
        assert len(varied.ids) == (4 if is_sequence else 7)


def test_a_prefix_never_ends_with_an_item_of_weight_0() -> None:
    example = tokenized([], [(0, 1), (1, 2), (3, 0), (2, 2)], begins=False)
    weights = np.array([1, 1, 0, 0, 2, 2, 0, 0], dtype=np.float32)
    prefixes = PrefixExamples(joined([example._replace(weights=weights)]), TOKENS, every=True)
    (cut,) = (prefixes.draw(number, np.random.default_rng(0)) for number in range(len(prefixes)))
    assert len(cut.ids) == 6


def test_items_left_out_of_a_prefix_never_include_its_target() -> None:
    examples = joined([tokenized([], [(n % 4, n % 3) for n in range(6)], begins=False)] * 20)
    prefixes = PrefixExamples(examples, TOKENS, every=True)
    varied = AugmentedExamples(prefixes, Augmentation(item_dropout=0.9), TOKENS, seed=0)
    for number in range(len(prefixes)):
        whole = prefixes.draw(number, np.random.default_rng(0))
        ids, targets, *_ = varied[number]
        assert 4 <= len(ids) <= len(whole.ids)
        assert ids[targets].tolist() == whole.ids[-2:].tolist()
        assert np.flatnonzero(targets).tolist() == [len(ids) - 2, len(ids) - 1]
