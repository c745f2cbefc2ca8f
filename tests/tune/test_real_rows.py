"""Every row of every task on real catalogues fits and ends with its whole answer: Beauty and MovieLens-100K.

Beauty is read where the shared data is at hand, MovieLens out of the folder or wheel that SIDTOOL_RECBOLE names.
"""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sidtool.bundle import Bundle, ItemMap
from sidtool.catalog.interactions import read_interactions
from sidtool.catalog.items import Items, read_items
from sidtool.catalog.queries import compose_queries
from sidtool.catalog.splits import leave_one_out
from sidtool.sid import SidSpace
from sidtool.tune.rows import RowMaker, SftOptions
from sidtool.tune.tasks import FAMILIES, TASKS, named_task
from tests.catalog.test_shared_data import DATA
from tests.models import tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sidtool.errors.SidtoolWarning")]
MAX_LENGTH = 1024


def bundle_of(items: Items) -> Bundle:
    """Any SIDs do: what is asked is whether rows fit."""
    space = SidSpace((32, 32, 32))
    keys = np.random.default_rng(0).choice(space.capacity, size=len(items), replace=False)
    codes = np.stack(np.unravel_index(keys, space.sizes), axis=1).astype(np.uint16)
    return Bundle.of(ItemMap.of(space, items.ids, codes, items.titles), None, "reassign", name="real")


def check(items: Items, events: Path, kind: str) -> None:
    bundle, tokenizer = bundle_of(items), tiny_tokenizer(chat=True)
    tokenizer.add_tokens(list(bundle.space.tokens))
    families = (name.replace("FIELD", field) for name in FAMILIES for field in items.fields)
    known = {"title", "sid", "text", "query", *items.fields}
    tasks = [
        task for task in (*TASKS, *families) if {named_task(task).source, named_task(task).target} <= {*known, "prefix"}
    ]
    options = SftOptions(dict.fromkeys(tasks, 1.0), format=kind, max_length=MAX_LENGTH)  # type: ignore[arg-type]
    maker = RowMaker(bundle, items, options, tokenizer, compose_queries(items, "something like {title}"))
    seen = set()
    for row in maker.rows(leave_one_out(read_interactions(events))):
        length = maker.length([*row.prompt, *row.answer])
        assert length is not None
        assert length <= MAX_LENGTH, row.task
        task = named_task(row.task)
        close = "<eos>" if kind == "plain" or task.target == "text" else "<|im_end|>"
        if row.task != "sequence":
            assert row.answer[-1].text.endswith(close)
        if task.target == "sid" and row.task != "sequence":
            codes = row.answer[0].places
            assert len(codes) == bundle.space.levels
            bundle.space.check(np.array([codes]) - bundle.space.offsets)
        elif task.target not in ("sid", "text"):  # running text of an item without a title has only its SID
            assert any(piece.kind == "catalogue" and piece.text for piece in row.answer)
        seen.add(row.task)
    assert seen == set(tasks)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_beauty(kind: str) -> None:
    check(read_items(DATA / "beauty" / "items.jsonl"), DATA / "beauty" / "interactions.csv", kind)


@pytest.mark.skipif("SIDTOOL_RECBOLE" not in os.environ, reason="SIDTOOL_RECBOLE names no recbole wheel or folder")
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_movielens(tmp_path: Path, kind: str) -> None:
    place = Path(os.environ["SIDTOOL_RECBOLE"])
    if place.suffix == ".whl":
        with zipfile.ZipFile(place) as wheel:
            wheel.extractall(tmp_path, [name for name in wheel.namelist() if "/ml-100k/" in name])
        place = tmp_path
    films = next(place.rglob("ml-100k.item"))
    check(read_items(films, fields=("class", "release_year")), films.with_suffix(".inter"), kind)
