"""What a stranger's first hour stumbled over and no other test has: choices on the first pages, and
what a notebook shows of a value."""

import re
from pathlib import Path

import sidtool
from tests.cli.road import Road


def test_the_first_pages_need_no_choice_of_model_or_levels() -> None:
    folder = Path(__file__).parents[2]
    for name in ("README.md", "docs/tutorial.md", "docs/fit.md", "Makefile"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.findall(r"--preset (?!neox-tiny)\S+|--levels \S+", text), name


LONGEST = 250


def test_values_that_grow_with_the_data_are_one_short_line(road: Road) -> None:
    bundle = sidtool.open_bundle(road.bundle)
    split = sidtool.open_split(road.split)
    other = sidtool.open_bundle(road.folder / "other.zarr")
    values: dict[str, object] = {
        f"<Bundle '{bundle.manifest.name}': 60 items": bundle,
        "<60 items, the first is 'b000': text '{title}'": sidtool.read_items(road.items),
        "<Split by leave-one-out: 40 users": split,
        "<PackedSequences: 40>": split.train,
        "<PackedExamples: 40>": split.test,
        "<Memory of 60 items, ": sidtool.build_memory(split, bundle),
        "<Diff: ": sidtool.diff(bundle, other),
        "<LoadedModel of ": sidtool.load_model_folder(road.tuned),
        "<Evaluation of 5 examples, ndcg@10: model ": sidtool.evaluate(
            road.tuned, road.split, limit=5
        ),
    }
    for start, value in values.items():
        shown = repr(value)
        assert shown.startswith(start), shown
        assert shown.endswith(">")
        assert len(shown) < LONGEST, shown
        assert "\n" not in shown
