"""Fixtures: a tiny shop whose users follow a pattern, and models extended by its semantic IDs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.data import Fields, FieldTypes, Items
from sidtool.data.split import Example, Split, UserSequence
from sidtool.examples import SftOptions, make_sft
from sidtool.model import extend_model
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.examples.cases import QUERIES
from tests.models import ENCODER_DECODERS, tiny_encoder_decoder, tiny_model, tiny_tokenizer

N_ITEMS = 40
FIRST_TIME = 880_000_000.0
"""Of the first event of each user, in seconds."""
TARGET_TIME = FIRST_TIME + 4000
"""Of each held-out event."""
WORDS = ("red", "blue", "soft", "hair", "cream", "film", "toy", "story")


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return small_bundle(N_ITEMS)


@pytest.fixture(scope="session")
def catalog() -> Items:
    rng = np.random.default_rng(3)
    ids = tuple(f"i{row}" for row in range(N_ITEMS))
    titles = tuple(" ".join(rng.choice(WORDS, size=3)) + f" {row}" for row in range(N_ITEMS))
    descriptions = tuple(f"Description of {title}, for everybody." for title in titles)
    brands = tuple(("Acme", "Bolt", "Acme & Sons")[row % 3] for row in range(N_ITEMS))
    return Items(
        ids, titles, titles, {"description": descriptions, "brand": brands}, "{title}", "digest"
    )


def make_split(users: int = 60, seed: int = 0, longest: int = 14) -> Split:
    """Leave-one-out over users who go through the catalog in steps of one from a random item."""
    rng = np.random.default_rng(seed)
    train, valid, test = [], [], []
    for number in range(users):
        start, n = rng.integers(N_ITEMS), int(rng.integers(3, longest))
        items = tuple(f"i{(start + step) % N_ITEMS}" for step in range(n))
        user = f"u{number}"
        train.append(UserSequence(user, items[: n - 2], tuple(range(n - 2))))
        valid.append(Example(user, items[: n - 2], items[n - 2], n - 2))
        test.append(Example(user, items[: n - 1], items[n - 1], n - 1))
    return Split("leave-one-out", tuple(train), tuple(valid), tuple(test))


def split_with_fields(
    split: Split,
    types: FieldTypes,
    fields_of: Callable[[str, tuple[str, ...]], Fields],
    feedback_of: Callable[[str, str], Mapping[str, object]],
) -> Split:
    """A split with the fields of each user and history, and the feedback of each held-out event."""

    def example(target: Example) -> Example:
        fields = fields_of(target.user, target.history)
        if types.times:
            fields = replace(fields, time=TARGET_TIME)
        return replace(target, fields=fields, feedback=dict(feedback_of(target.user, target.item)))

    return replace(
        split,
        train=tuple(replace(user, fields=fields_of(user.user, user.items)) for user in split.train),
        valid=tuple(map(example, split.valid)),
        test=tuple(map(example, split.test)),
        origin=replace(split.origin, fields=types),
    )


RATED = FieldTypes({"rating": "int"}, {}, {"age": "int"}, times=True)


def rated_split(split: Split) -> Split:
    """A split with ages, ratings and times."""

    def fields_of(user: str, items: tuple[str, ...]) -> Fields:
        number = int(user.rpartition("u")[2])
        ratings = tuple((number + place) % 5 + 1 for place in range(len(items)))
        times = tuple(FIRST_TIME + 40 * number * place**2 for place in range(len(items)))
        return Fields({"age": 20 + number % 7}, {"rating": ratings}, {}, times)

    return split_with_fields(split, RATED, fields_of, lambda user, item: {"rating": 3})


@pytest.fixture(scope="session")
def split() -> Split:
    return make_split()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Callable[..., Path]:
    """Extended tiny models by architecture and configuration, made once."""
    made: dict[Any, Path] = {}

    def model(architecture: str = "llama", **overrides: Any) -> Path:
        key = (architecture, *sorted(overrides.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(architecture)
            tokenizer = tiny_tokenizer(chat=True)
            tokenizer.save_pretrained(folder / "base")
            tiny = tiny_encoder_decoder if architecture in ENCODER_DECODERS else tiny_model
            made_model = tiny(architecture, vocab_size=len(tokenizer), **overrides)
            made_model.save_pretrained(folder / "base")
            extend_model(str(folder / "base"), bundle, folder / "base+sid")
            made[key] = folder / "base+sid"
        return made[key]

    return model


@pytest.fixture(scope="session")
def examples(
    tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, catalog: Items, split: Split
) -> Callable[..., Path]:
    """Files of training examples by mix of tasks, each written once."""
    made: dict[Any, Path] = {}

    def write(**tasks: float) -> Path:
        key = tuple(sorted(tasks.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("examples") / "train.jsonl"
            mix = {task.replace("_", "-"): weight for task, weight in tasks.items()}
            make_sft(
                bundle,
                catalog,
                split,
                out,
                SftOptions(mix, max_length=256, history_length=6),
                tokenizer=tiny_tokenizer(),
                queries=QUERIES,
            )
            made[key] = out
        return made[key]

    return write
