"""The real data sets of the benchmarks, where they are available."""

import pytest

from sidtool.base.errors import SidtoolWarning
from sidtool.data.interactions import read_interactions
from sidtool.data.items import read_items
from sidtool.data.split.protocols import SplitEvents, given
from tests.data.split.cases import trained
from tests.shared_data import DATA

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not at hand")


def test_the_examples_of_beauty_are_valid() -> None:
    with pytest.warns(SidtoolWarning, match="7 of 12101 items have no text"):
        items = read_items(DATA / "beauty" / "items.jsonl")
    events = read_interactions(DATA / "beauty" / "interactions.csv")
    split = SplitEvents(events).leave_one_out()
    counts = (len(items), len(events), len(split.train), len(split.test))
    assert counts == (12101, 198502, 22363, 22363)
    assert set(events.items) == set(items.ids)


def test_minionerec_industrial() -> None:
    folder = DATA / "minionerec-industrial"
    template = "{title}. {description}"
    items = read_items(folder / "item.json", text_template=template, fields=["description"])
    assert items.ids == tuple(str(row) for row in range(3686))
    descriptions = items.fields["description"]
    assert not any(text.startswith("['") or text.endswith("']") for text in descriptions)
    split = given(folder / "train_partial.csv", folder / "valid.csv", folder / "test.csv")
    assert split.windows is not None
    assert (len(split.windows), len(split.valid), len(split.test)) == (10393, 4532, 4533)
    shown = trained(split)
    assert split.held_out.count(shown) == 0
    # one item at each place of a sequence
    assert len({(user, at) for user, _, at in shown}) == len(shown)
    assert {item for _, item, _ in shown} <= set(items.ids)
