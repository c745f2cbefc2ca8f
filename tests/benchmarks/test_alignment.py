import json
import re
import shutil
from pathlib import Path

import pytest

from tests.benchmarks.conftest import Run


def test_both_mixes_have_points_and_a_paired_difference(
    script: Run, data: Path, recipe_folder: Path, base: Path, tmp_path: Path, commands: list[str]
) -> None:
    work = tmp_path / "work"
    sizes = ("--tokens", 600, "--users", 6, "--valid-users", 4, "--levels", "4x4x8")
    options = ("--recipe", recipe_folder, "--encoder", tmp_path / "encoder", "--model", base)
    names = ("--title-column", "title", "--set", "bf16=false")

    def run(name: str, *further: object) -> list[str]:
        commands.clear()
        script("alignment", data, name, "-o", work, *options, *sizes, *names, *further)
        return list(commands)

    assert run("pretrained-mix", "--points", 0).count("train") == 4  # the search
    assert run("pretrained-mix", "--points", 1).count("train") == 0
    made = run("pretrained-mix", "--points", 2)  # goes on from there
    assert made.count("train") == 1
    assert made.count("evaluate-task") == 1
    assert run("pretrained-mix", "--points", 2) == []
    run("pretrained-sids", "--points", 1, "--settings", "lora-1e-3")
    run("scratch-sids", "--points", 1, "--settings", "full-1e-3")
    run("small")

    out = tmp_path / "alignment.json"
    script("alignment", "--collect", work, out)
    runs = json.loads(out.read_text())["data"]["shop"]
    names = {"pretrained-mix-0", "pretrained-sids-0", "scratch-sids-0", "small-0", "baselines"}
    assert set(runs) == names
    first, second = runs["pretrained-mix-0"]["points"]
    search = runs["pretrained-mix-0"]["search"]
    assert (search["tokens"], search["valid_users"]) == (600, 4)
    assert max(search["ndcg@10"].values()) == search["ndcg@10"][first["setting"]]
    (sids,) = runs["pretrained-sids-0"]["points"]
    assert (first["tokens"], second["tokens"]) == (600, 1200)
    assert first["n"] == sids["n"] == 6
    assert 0 < first["recommendation_tokens"] < 600 == sids["recommendation_tokens"]
    assert first["hidden_titles"]["n"] == first["hidden_items"] > 0
    assert "hidden_titles" not in sids
    gain = first["less_sids"]["lora-1e-3"]["ndcg@10"]["mean"]
    assert gain == pytest.approx(first["metrics"]["ndcg@10"] - sids["metrics"]["ndcg@10"])

    # points and searches of another machine stay
    shutil.rmtree(work / "shop" / "runs" / "scratch-sids-0")
    recorded = json.loads(out.read_text())
    for point in recorded["data"]["shop"]["scratch-sids-0"]["points"]:
        point["measured_on"]["machine"] = "another one"
    recorded["data"]["shop"]["pretrained-mix-0"]["search"]["measured_on"]["machine"] = "another one"
    out.write_text(json.dumps(recorded))
    script("alignment", "--collect", work, out)
    assert json.loads(out.read_text()) == recorded

    recorded["data"]["shop"]["pretrained-sids-1"] = runs["pretrained-sids-0"]
    out.write_text(json.dumps(recorded))
    svg = tmp_path / "curves.svg"
    script("alignment_picture", out, svg)
    curves = re.findall(r">(pretrained-\w+|scratch-\w+)</text>", svg.read_text())
    assert sorted(curves) == sorted(2 * ["pretrained-mix", "pretrained-sids", "scratch-sids"])
