from pathlib import Path

import numpy as np
import pytest

from sidtool.data.split.files import split_events
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.split import Split

NEW = {"n1", "n2"}
EVENTS = {
    "u1": ["a", "n1", "b", "c", "n2", "d"],
    "u2": ["n1", "n2", "a", "b"],
    "u3": ["n1"],
    "u4": ["a", "b", "c", "n1"],
    "u5": ["a", "n1", "b", "a", "b"],  # training has the targets, and lacks the item between
}


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    rows = [
        f"{user},{item},{order}"
        for user, items in EVENTS.items()
        for order, item in enumerate(items)
    ]
    path.write_text("\n".join(["user_id,item_id,order", *rows]) + "\n")
    return path


def test_training_has_no_event_of_a_new_item(events: Path, tmp_path: Path) -> None:
    from new_items import write_windows_without

    original = make_split(events)
    folder = write_windows_without(original, NEW, tmp_path / "windows")
    options = SplitOptions("given", folder / "valid.csv", folder / "test.csv")
    manifest = split_events(folder / "train.csv", tmp_path / "split", options)
    assert manifest.counts.left_out == 0
    split = make_split(folder / "train.csv", options)
    assert {user.user: user.items for user in split.train} == {
        "u1 (training)": ("a", "b", "c"),
        "u4 (training)": ("a", "b"),
        "u5 (training)": ("a", "b"),
    }
    for part, expected in ((split.valid, original.valid), (split.test, original.test)):
        pairs = [(example.user, example.history, example.item) for example in part]
        assert pairs == [(example.user, example.history, example.item) for example in expected]
    # validation can weigh new items, test measures them
    assert [example.item for example in split.valid] == ["n2", "a", "c", "a"]
    assert [example.item for example in split.test] == ["d", "b", "n1", "b"]
    assert split.valid[0].history == ("a", "n1", "b", "c")


def test_windows_cannot_be_divided_again(events: Path) -> None:
    from new_items import refuse_windows

    split = make_split(events)
    refuse_windows(split)
    windows = Split("given", split.train, split.valid, split.test, windows=split.valid)
    with pytest.raises(ValueError, match="not to windows"):
        refuse_windows(windows)


def test_text_knn_weighs_later_items_more() -> None:
    from new_items import text_knn

    vectors = np.array([[1, 0], [0, 1], [3, 1], [1, 3], [-1, 0]], dtype=np.float32)
    oldest_first = [np.array([0, -1, 1, -1])]  # the profile is (0.5, 1)
    everything = text_knn(vectors, oldest_first, 5, exclude_seen=False)
    # by hand: .5, 1, (1.5 + 1) / sqrt(10) = .79, (.5 + 3) / sqrt(10) = 1.11, -.5
    assert everything.tolist() == [[3, 1, 2, 0, 4]]
    assert text_knn(vectors, oldest_first, 2, exclude_seen=True).tolist() == [[3, 2]]
    rows = np.array([2, 4])
    assert text_knn(vectors, oldest_first, 2, exclude_seen=True, only=rows).tolist() == [[2, 4]]
