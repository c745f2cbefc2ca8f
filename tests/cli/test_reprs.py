"""What a notebook shows of a value: one short line, however large the data."""

import sidtool
from tests.cli.road import Road

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
