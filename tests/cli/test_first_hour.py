"""What a stranger's first hour stumbled over and no other test has: paths that are gone, choices on
the first pages, the words of Python, and what a notebook shows of a value."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import sidtool
from sidtool.base.errors import DataError, SidtoolError, UsageError
from tests.cli.road import Road, done


def test_refresh_names_no_path_that_is_gone(road: Road, tmp_path: Path) -> None:
    words = ("refresh", road.tuned, road.bundle, road.split, "-o", tmp_path / "new", "--share", 0.2)
    ran = done(*words)
    for text in re.findall(rf"{re.escape(str(tmp_path))}[^\s:,;]*", ran.out + ran.err):
        assert Path(text).exists(), (text, ran.out, ran.err)


def test_the_first_pages_need_no_choice_of_model_or_levels() -> None:
    folder = Path(__file__).parents[2]
    for name in ("README.md", "docs/tutorial.md", "docs/fit.md", "Makefile"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.findall(r"--preset (?!neox-tiny)\S+|--levels \S+", text), name


def test_functions_take_options_as_keywords_named_as_the_flags(road: Road) -> None:
    ids = [f"i{number}" for number in range(30)]
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    bundle = sidtool.Bundle.from_vectors(ids, vectors, levels="4x4x4")
    assert bundle.space.sizes == (4, 4, 4)
    assert "interactions" in inspect.signature(sidtool.build_codebook).parameters
    request = sidtool.Request(history=["b001", "b002"])
    (answer,) = sidtool.recommend(str(road.tuned), [request], k=3)
    assert len(answer.items) == 3
    with pytest.raises(UsageError, match="no option"):
        sidtool.recommend(str(road.tuned), [request], top=3)


@pytest.mark.parametrize("history", ["12", [1, 2]])
def test_a_history_of_another_type_is_refused_at_once(history: object) -> None:
    with pytest.raises(DataError, match="'history' of a request"):
        sidtool.Request(history=history)  # type: ignore[arg-type]


def test_hints_speak_the_words_of_python(road: Road) -> None:
    with pytest.raises(SidtoolError) as caught:
        sidtool.split_events(str(road.events), str(road.split))
    assert caught.value.hint is not None
    assert "force=True" in caught.value.hint
    assert "--force" not in caught.value.hint
    assert "--force" in str(caught.value.shell_hint)


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
