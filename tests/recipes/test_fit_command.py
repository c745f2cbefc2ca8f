from pathlib import Path

from tests.cli.road import done, run
from tests.recipes.conftest import Finished, Shop


def line(shop: Shop, out: Path) -> tuple[object, ...]:
    """The words that made the finished road, in a folder."""
    words = ("fit", shop.items, shop.events, "-o", out, "--recipe", shop.recipe)
    return (*words, "--encoder", shop.encoder)


def test_the_verdict_and_the_report_come_last(finished: Finished, shop: Shop) -> None:
    ran = done(*line(shop, finished.folder))
    verdict, report = ran.out.splitlines()
    assert verdict.startswith(("Yes: ", "No: "))
    assert "item-kNN" in verdict
    assert report == f"report: {finished.folder}/report.html"
    said = ran.err.splitlines()
    assert said[0].startswith("step 1 of 11: check; ")
    assert f"{finished.folder}/run.sh has the commands" in said[-2]
    printed = done(*line(shop, finished.folder), "--json").json
    assert said[-1] == f"next: {printed['next']}"
    if verdict.startswith("Yes"):
        assert f"sidtool recommend {finished.folder}/model+memory --history b0" in said[-1]
    else:
        assert printed["next"] == printed["verdict"]["advice"]
    assert printed["verdict"]["sentences"]
    assert printed["profile"]["users"] == 40


def test_a_dry_run_prints_a_script_and_writes_nothing(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = done(*line(shop, out), "--dry-run")
    assert ran.out.startswith("#!/usr/bin/env bash\n")
    assert "sidtool train " in ran.out
    steps = done(*line(shop, out), "--dry-run", "--json").json["steps"]
    assert [words[0] for words in steps][:3] == ["check", "split", "build-codebook"]
    assert not out.exists()


def test_a_step_that_fails_has_its_exit_code_and_names_itself(shop: Shop, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    for name in ("codebook", "sft", "train", "model"):
        (recipe / f"{name}.yaml").write_text("unknown: 1\n")
    words = ("fit", shop.items, shop.events, "-o", tmp_path / "out", "--recipe", recipe)
    ran = run(*words, "--encoder", shop.encoder)
    assert (ran.code, ran.out) == (2, "")
    assert "has no option 'unknown'" in ran.err
    assert "build-codebook " in ran.err.splitlines()[-1]
    assert ran.err.splitlines()[-1].endswith("ended with exit code 2")
