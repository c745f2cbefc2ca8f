"""Examples of every task, of a small shop and on real catalogs: they fit, end with the whole
completion, and contain no token that catalog text spells.

Beauty is read from the shared data where it is available, MovieLens from the wheel `recbole` (see
the Makefile)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sidtool.data import Items, Query, compose_queries, read_items
from sidtool.data.interactions import read_interactions
from sidtool.data.split import Split
from sidtool.data.split.protocols import SplitEvents
from sidtool.examples import ExampleMaker, SftOptions
from sidtool.examples.task import TrainingExample
from sidtool.examples.tasks import TASKS, history_prompt_task, named_task
from sidtool.model.prompt import Format, Segment, catalog, prompt_encoder
from sidtool.model.prompt.item_text import item_text
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.sid import SidSpace
from tests.examples.cases import ALL_TASKS, QUERIES
from tests.model.prompt.cases import extended_tokenizer
from tests.shared_data import DATA

pytestmark = pytest.mark.filterwarnings("ignore::sidtool.base.errors.SidtoolWarning")


def bundle_of(items: Items) -> Bundle:
    """A bundle of random SIDs: only the lengths of examples matter."""
    space = SidSpace((32, 32, 32))
    keys = np.random.default_rng(0).choice(space.capacity, size=len(items), replace=False)
    codes = np.stack(np.unravel_index(keys, space.sizes), axis=1).astype(np.uint16)
    map_of_items = ItemMap.of(space, items.ids, codes, items.titles)
    return Bundle.of(map_of_items, None, "reassign", name="real")


def possible_tasks(items: Items) -> list[str]:
    """The tasks whose columns a catalog has."""
    names = [name for name, task in TASKS.items() if not task.needs_fields]
    tasks = [
        name.replace("FIELD", field)
        for name in names
        for field in (items.fields if "FIELD" in name else ("",))
    ]
    return [task for task in tasks if named_task(task).column in ("", *items.fields)]


def check_real(items: Items, events: Path, format_: Format) -> None:
    """The examples of every task for which a catalog has the columns."""
    weights = {task: 1.0 if named_task(task).of_users else 3.0 for task in possible_tasks(items)}
    queries = compose_queries(items, "something like {title}")
    split = SplitEvents(read_interactions(events)).leave_one_out()
    check(bundle_of(items), items, split, SftOptions(weights, format=format_), queries)


def check(
    bundle: Bundle, items: Items, split: Split, options: SftOptions, queries: Sequence[Query]
) -> None:
    tokenizer, tokens = extended_tokenizer(bundle.space)
    maker = ExampleMaker(bundle, items, options, tokenizer, queries)
    catalog_index = {item_id: index for index, item_id in enumerate(items.ids)}
    catalog_texts: set[str] = set()
    templates = set()
    for example in maker.examples(split):
        assert maker.length(example.segments) <= options.max_length, example.task
        index = catalog_index.get(example.item or "", -1)
        check_completion(example, bundle, items, index, options.format)
        for left, right in pairwise(example.segments):  # a blank would be a token of its own
            assert not (right.sid_tokens and left.text.endswith(" "))
        catalog_texts |= texts_of(example.segments, "catalog")
        templates.add((example.task, frozenset(texts_of(example.prompt, "template"))))
    check_templates(options.tasks, Counter(task for task, _ in templates))
    added = set(tokenizer.added_tokens_decoder)
    encoder = prompt_encoder(tokenizer, tokens)
    for text in catalog_texts:
        with_markup = f"{text}<s_a_1> <|im_end|>{text}<eos>"
        assert not added & set(encoder.ids([catalog(text), catalog(with_markup)]))


def texts_of(segments: Sequence[Segment], kind: str) -> set[str]:
    return {segment.text for segment in segments if segment.kind == kind}


def check_completion(
    example: TrainingExample, bundle: Bundle, items: Items, index: int, format_: str
) -> None:
    """A completion is the whole target and the end of the turn."""
    if example.task == "sequence":
        return
    task = named_task(example.task)
    assert bool(example.prompt) != (task.target == "text")
    is_plain = format_ == "plain" or task.target == "text"
    assert example.completion[-1].text.endswith("<eos>" if is_plain else "<|im_end|>")
    if task.writes_sids:
        assert not texts_of(example.completion, "catalog")
    if task.target == "sid":
        codes = bundle.items.codes[bundle.items.row(example.item or "")]
        sid_tokens = example.completion[0].sid_tokens[: bundle.space.levels]
        assert sid_tokens == tuple((codes + bundle.space.offsets).tolist())
    elif task.target not in ("text", "list"):
        values = items.fields[task.column] if task.target == "column" else items.titles
        (text,) = texts_of(example.completion, "catalog")
        assert text == item_text(values[index]) != ""


def check_templates(weights: Mapping[str, float], counts: Counter[str]) -> None:
    """Every template is used, except those of tasks with only one, and of those that a model is
    asked by."""
    served = {"sequence", "list", history_prompt_task(weights)}
    for name, weight in weights.items():
        has_one = named_task(name).target == "text" or name == "sequence"
        assert counts[name] >= (1 if has_one else min(3, weight) if name in served else 3)


@pytest.mark.parametrize("format_", ["plain", "chat"])
@pytest.mark.parametrize("max_length", [110, 256])
def test_the_examples_of_a_shop_are_valid(
    bundle: Bundle, catalog: Items, split: Split, format_: Format, max_length: int
) -> None:
    tasks = dict.fromkeys(ALL_TASKS, 3.0)
    if max_length == 110:  # too short for descriptions
        shorter = (task for task in tasks if "description" not in task and task != "item-text")
        tasks = dict.fromkeys(shorter, 3.0)
    options = SftOptions(tasks, format=format_, history_length=12, max_length=max_length)
    check(bundle, catalog, split, options, QUERIES)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")
@pytest.mark.parametrize("format_", ["plain", "chat"])
def test_the_examples_of_beauty_are_valid(format_: Format) -> None:
    items = read_items(DATA / "beauty" / "items.jsonl")
    check_real(items, DATA / "beauty" / "interactions.csv", format_)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("recbole") is None, reason="the wheel recbole is not installed")
@pytest.mark.parametrize("format_", ["plain", "chat"])
def test_the_examples_of_movielens_are_valid(format_: Format) -> None:
    spec = find_spec("recbole")
    folder = Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k"
    items = read_items(folder / "ml-100k.item", fields=("class", "release_year"))
    check_real(items, folder / "ml-100k.inter", format_)
