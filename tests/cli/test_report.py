import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import UsageError
from sidtool.cli.reports import bundle_parts
from sidtool.cli.reports.evaluation_page import MAX_JSON
from sidtool.cli.reports.report import report
from tests.cli.reports.html_page import Parsed, parsed
from tests.cli.road import Road, done, refused, retire


@pytest.fixture(scope="module")
def evaluation(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluation") / "tuned.json"
    path.write_text(done("evaluate", road.tuned, road.split, "--json").out, encoding="utf-8")
    return path


EVENTS = "Prefixes and training events"
"""The heading of what `--split` adds."""


def page(out: Path, *words: object) -> Parsed:
    """The parsed page of `report`."""
    done("report", *words, "-o", out)
    return parsed(out.read_text(encoding="utf-8"))


def test_the_page_of_a_bundle(road: Road, tmp_path: Path) -> None:
    more = ("--items", road.items, "--field", "title", "--split", road.split)
    text = page(tmp_path / "page.html", road.bundle, *more).text
    for heading in ("Overview", "Levels", "Codebook", "Map", "Lineage", EVENTS):
        assert heading in text
    command = ("report", road.tuned, "-o", tmp_path / "m.html", "--split", road.split)
    assert "--split applies to bundles" in refused(2, *command)
    assert "red lamp 0" in text
    assert "the most frequent title" in text
    assert "Neighbors of" not in text


def test_the_neighbors_of_a_bundle(road: Road, tmp_path: Path) -> None:
    parts = page(tmp_path / "page.html", road.bundle, "--embeddings", road.vectors)
    assert parts.text.count("of 10 neighbors kept") == bundle_parts.QUERIES
    assert "✓ kept" in parts.text
    assert "lost" in parts.text
    assert EVENTS not in parts.text
    missing = tmp_path / "few.npy"
    np.save(missing, np.zeros((1, 8), dtype=np.float32))
    (tmp_path / "few.ids.txt").write_text("b001\n")
    command = ("report", road.bundle, "-o", tmp_path / "no.html", "--embeddings")
    assert "no vector" in refused(1, *command, missing)


def test_a_published_bundle_is_compared_with_its_parent(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    retire(road.bundle, Path("newer.zarr"), "b001")
    done("push", "newer.zarr", "registry/shop")
    assert "From version" not in page(tmp_path / "a.html", "registry/shop").text
    done("push", road.bundle, "registry/shop")
    text = page(tmp_path / "b.html", "registry/shop@1.1").text
    assert "From version 1.0 to shop@1.1" in text
    assert "b001" in text.partition("From version 1.0 to shop@1.1")[2]
    assert "From version" not in page(tmp_path / "c.html", "registry/shop@1.0").text
    assert "From version" not in page(tmp_path / "d.html", "newer.zarr").text


def test_the_page_of_a_training(road: Road, tmp_path: Path) -> None:
    text = page(tmp_path / "page.html", road.tuned).text
    lines = (road.tuned / "training.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for figure in ("loss", "learning_rate", "ndcg@10", "hr@10", "validation loss"):
        assert f"{figure} by step" in text
    validated = [entry for entry in entries if "eval_ndcg@10" in entry]
    assert all(entry["eval_ndcg@10_item_knn"] > 0 for entry in validated)
    best = max(entry["eval_ndcg@10"] for entry in validated)
    answer = text.index(f"Best ndcg@10 {best:.4f} (95% interval ")
    assert answer < text.rindex("Training curves") < text.rindex("What the run is")
    assert "memory_gib by step" in text
    assert "options.softmax_over" in text
    assert "Stages of tuned" in text


def test_the_page_of_a_model_that_was_not_trained(road: Road, tmp_path: Path) -> None:
    alone = page(tmp_path / "a.html", road.model).text
    assert "base+sid has no training.jsonl: nothing is known of its course." in alone
    assert "No validation is recorded." in alone
    assert "ndcg@10 by step" in page(tmp_path / "b.html", road.model, road.tuned).text


def test_the_page_of_an_evaluation(evaluation: Path, tmp_path: Path) -> None:
    text = page(tmp_path / "page.html", evaluation).text
    stored = json.loads(evaluation.read_text())
    places = [text.index(sentence) for sentence in stored["verdict"]["sentences"]]
    parts = ("Metrics", "Slices by", "Counts, settings and digests")
    places += [text.rindex(heading) for heading in parts]
    assert places == sorted(places)  # the answer first, digests last
    assert stored["settings"]["model"] == "tuned"
    low, high = stored["confidence_interval"]["hr@10"]
    assert f"{stored['metrics']['hr@10']:.4f} [{low:.4f}, {high:.4f}]" in text
    for name in (*stored["baselines"], "Prefixes that survive", "by slice"):
        assert name in text
    low, high = stored["baseline_intervals"]["item-knn"]["hr@10"]
    assert f"{stored['baselines']['item-knn']['hr@10']:.4f} [{low:.4f}, {high:.4f}]" in text


def test_twenty_users_are_shown_with_titles(road: Road, evaluation: Path, tmp_path: Path) -> None:
    stored = json.loads(evaluation.read_text())
    samples = stored["samples"]
    assert len(samples) == 20
    text = page(tmp_path / "page.html", evaluation).text
    titles = {item["item_id"]: item["title"] for item in map(json.loads, road.items.open())}
    for sample in samples:
        listed = [sample["target"], *sample["history"], *sample["recommended"]["item-knn"]]
        for item in listed:
            assert f"{titles[item]} ({item})" in text
        hits = [items for items in sample["recommended"].values() if sample["target"] in items]
        assert text.count(f"User {sample['user']}, then {titles[sample['target']]}") == 1
        assert len(sample["recommended"]) == 3
        assert all(len(items) == 10 for items in hits)
    lists = [(user["target"], user["recommended"].values()) for user in samples]
    n_hits = sum(target in items for target, recommended in lists for items in recommended)
    assert text.count("✓") == n_hits > 0
    catalog = tmp_path / "catalog.csv"
    catalog.write_text(f"item_id,title\n{samples[0]['target']},another title\n")
    done("report", evaluation, "-o", tmp_path / "b.html", "--items", catalog)
    assert "another title" in (tmp_path / "b.html").read_text("utf-8")
    catalog.write_text(f"item_id,tag\n{samples[0]['target']},another title\n")
    command = ("report", evaluation, "-o", tmp_path / "c.html", "--items", catalog)
    assert "has no column 'title'" in refused(2, *command)


def test_an_evaluation_without_samples_has_no_users(road: Road, tmp_path: Path) -> None:
    path = tmp_path / "few.json"
    few = ("--json", "--samples", 0, "--limit", 5)
    path.write_text(done("evaluate", road.tuned, road.split, *few).out, encoding="utf-8")
    stored = json.loads(path.read_text())
    assert (stored["samples"], stored["titles"]) == ([], {})
    # files of earlier versions have neither
    for name in ("samples", "titles", "baseline_intervals"):
        del stored[name]
    stored["differences"] = {}  # without baselines
    path.write_text(json.dumps(stored), encoding="utf-8")
    text = page(tmp_path / "page.html", path).text
    assert "Users and their" not in text
    assert "p-value" not in text


def test_evaluations_side_by_side(evaluation: Path, tmp_path: Path) -> None:
    stored = json.loads(evaluation.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(stored | {"n": stored["n"] + 1}), encoding="utf-8")
    text = page(tmp_path / "page.html", evaluation, other).text
    assert "Evaluation: tuned, other" in text
    assert "their numbers do not compare" in text
    # the baselines are the same, so they are shown once
    assert "popularity (other)" not in text
    # and so are the users
    assert text.count("Recommendations for user u0") == 1
    stored["settings"]["exclude_seen"] ^= True
    other.write_text(json.dumps(stored), encoding="utf-8")
    assert "their numbers do not compare" in page(tmp_path / "seen.html", evaluation, other).text
    stored["settings"]["exclude_seen"] ^= True
    stored["counts"]["active_items"] += 1  # an item more that could be recommended
    stored["samples"][0]["earlier"] = 1234
    stored["settings"]["ks"] = [10]
    del stored["metrics"]["hr@5"]
    other.write_text(json.dumps(stored), encoding="utf-8")
    text = page(tmp_path / "b.html", other, evaluation).text
    assert "their numbers do not compare" in text
    assert "1,234 earlier items are left out" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no evaluation"),
        ("{}", "n is missing"),
        ('{"n": 1, "metrics": []}', "metrics is [], not an object"),
        (" " * (MAX_JSON + 1), f"cannot be read: it has more than {MAX_JSON} bytes"),
    ],
)
def test_another_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(content, encoding="utf-8")
    assert message in refused(1, "report", path, "-o", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_metric_missing_or_at_no_number_is_named(evaluation: Path, tmp_path: Path) -> None:
    stored = json.loads(evaluation.read_text())
    path = tmp_path / "file.json"

    def error_of(metrics: dict[str, float]) -> str:
        baselines = stored["baselines"] | {"popularity": metrics}
        path.write_text(json.dumps(stored | {"baselines": baselines}), encoding="utf-8")
        return refused(1, "report", path, "-o", tmp_path / "page.html")

    metrics = stored["baselines"]["popularity"]
    fewer = {name: value for name, value in metrics.items() if name != "hr@5"}
    assert "popularity has no hr@5" in error_of(fewer)
    path.write_text(json.dumps(stored | {"settings": {"ks": "5"}}), encoding="utf-8")
    error = refused(1, "report", path, "-o", tmp_path / "page.html")
    assert "settings.ks is no list of whole numbers" in error
    for name in ("ndcg@x", "survival@", "hr@1e999"):
        assert f"popularity has {name!r}, which is at no number" in error_of(metrics | {name: 0.1})
    far = dict.fromkeys(metrics, 1e308) | {"hr@5": -1e308}
    assert "a chart cannot show values from -1e+308 to 1e+308" in error_of(far)


def test_a_damaged_history_is_named(road: Road, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    for path in road.tuned.iterdir():
        if path.name != "training.jsonl":
            (folder / path.name).symlink_to(path)
    (folder / "training.jsonl").write_text('{"step": 1}\n{"loss": 2}\n')
    error = refused(1, "report", folder, "-o", tmp_path / "page.html")
    assert "training.jsonl, line 2: a log line is an object with a step" in error


def test_a_page_is_of_something(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing to report on"):
        report([], tmp_path / "page.html")


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_options_of_a_caller_are_checked(road: Road, tmp_path: Path, seed: Any) -> None:
    with pytest.raises(UsageError, match="seed must be"):
        report(road.bundle, tmp_path / "page.html", seed=seed)


def test_wrong_words_are_usage_errors(road: Road, evaluation: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "page.html")
    field = ("--items", road.items, "--field", "title")
    assert "is the kind: bundle, and" in refused(2, "report", road.bundle, evaluation, *out)
    assert "is given twice" in refused(2, "report", road.bundle, road.bundle, *out)
    assert "--items and --field" in refused(2, "report", road.bundle, *field[:2], *out)
    assert "--items does not apply" in refused(2, "report", road.tuned, *field[:2], *out)
    vectors = ("--embeddings", road.vectors)
    assert "--embeddings applies to" in refused(2, "report", evaluation, *out, *vectors)
    assert "--field applies to bundles" in refused(2, "report", evaluation, *field, *out)
    assert "an HTML page is written" in refused(2, "report", road.bundle, "-o", tmp_path / "a.csv")
    for first in ((), (road.tuned,), (evaluation,)):
        missing = refused(1, "report", *first, tmp_path / "nothing.zarr", *out)
        assert f"{tmp_path / 'nothing.zarr'} does not exist" in missing
