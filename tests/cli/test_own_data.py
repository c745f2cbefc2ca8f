from pathlib import Path

from tests.cli.messy import messy_shop
from tests.cli.road import TINY, TRAINING, done, refused, run
from tests.data.tables.files import write_table


def test_a_messy_shop_goes_from_files_to_recommendations(tmp_path: Path, encoder: Path) -> None:
    """Every command succeeds, and none needs a column flag."""
    catalog, orders = messy_shop(tmp_path)
    before = run("check", catalog, orders, "--json")
    assert before.code == 3
    kinds = {problem["kind"]: problem["count"] for problem in before.json["problems"]}
    assert kinds.pop("unordered") > 0
    assert kinds == {
        "empty_item_id": 1,
        "duplicate_item_id": 1,
        "item_id_spelling": 1,
        "empty_title": 1,
        "empty_user": 1,
        "unknown_item": 2,
        "unreadable_time": 1,
        "mixed_time": 1,
        "duplicate_event": 1,
        "single_event_user": 1,
    }
    clean = tmp_path / "clean"
    assert "left out: 1 events without a user" in done("check", catalog, orders, "--fix", clean).out
    items, events = clean / "items.parquet", clean / "events.parquet"
    assert done("check", items, events).code == 0
    split, bundle, base = tmp_path / "split", tmp_path / "shop.zarr", tmp_path / "base"
    done("split", events, "-o", split)
    build = ("build-codebook", items, "-o", bundle, "--encoder", encoder, "--levels", "4x4x8")
    done(*build, "--interactions", split, "--set", "collaborative_dim=4")
    done("init-model", items, "-o", base, "--vocab-size", 300, *TINY)
    done("extend-model", base, bundle, "-o", tmp_path / "model")
    sft = ("make-sft", bundle, items, split, "-o", tmp_path / "train.jsonl")
    done(*sft, "--model", tmp_path / "model")
    done("train", tmp_path / "model", tmp_path / "train.jsonl", "-o", tmp_path / "tuned", *TRAINING)
    done("evaluate", tmp_path / "tuned", split)
    recommend = ("recommend", tmp_path / "tuned", "--events", events, "--user", "c3", "-k", 3)
    assert len(done(*recommend, "--json").json["items"]) == 3


def test_check_of_good_data_says_so(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["a", "b"], "name": ["A", "B"]})
    table = {"customer": ["u"] * 3, "sku": ["a", "b", "a"], "ts": ["1", "2", "3"]}
    events = write_table(tmp_path / "e.csv", table)
    shown = done("check", items, events).out
    assert shown.splitlines()[-1] == "no problems"
    assert "user 'customer', item 'sku', time 'ts'" in shown
    assert done("check", items, "--json").json["problems"] == []


def test_check_names_its_own_option_for_a_column(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["a", "b"], "name": ["A", "B"]})
    events = write_table(tmp_path / "e.csv", {"who": ["u"] * 3, "sku": ["a"] * 3})
    error = refused(2, "check", items, events)
    assert "looks like the user id" in error
    flags = "--id-column sku --title-column name --user-column who --item-column sku"
    missing = "name it with --user-column, --order-column, or with --order row if the rows are in"
    assert error.splitlines()[-1] == f"hint: by their cells, columns are {flags}; {missing} order"


def test_the_step_after_a_fix_of_items_alone_works(tmp_path: Path, encoder: Path) -> None:
    catalog, _ = messy_shop(tmp_path)
    last = done("check", catalog, "--fix", tmp_path / "clean").last
    assert last.endswith("--encoder ENCODER")
    pasted = last.removeprefix("next: sidtool ").replace("ENCODER", str(encoder))
    words = pasted.replace("BUNDLE.zarr", str(tmp_path / "shop.zarr")).split()
    done(*words, "--levels", "4x4x8")


def test_check_without_an_order_needs_the_rows_to_be_meant(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["a", "b"], "name": ["A", "B"]})
    events = write_table(tmp_path / "e.csv", {"user": ["u", "u", "u"], "sku": ["a", "b", "a"]})
    assert "--order row" in refused(2, "check", items, events)
    fix = ("--order", "row", "--fix", tmp_path / "out")
    done("check", items, events, *fix)
    split = ("split", tmp_path / "out/events.parquet", "-o", tmp_path / "split")
    assert "1 examples" in done(*split).out  # the order of the rows is now a column
