"""`sidtool adopt` from the command line."""

import json
from pathlib import Path

from tests.cli.road import Road, done


def test_a_foreign_model_is_adopted_and_recommends(road: Road, tmp_path: Path) -> None:
    command = ("adopt", road.foreign, road.foreign_map, "--preset", "minionerec")
    ran = done(*command, "-o", tmp_path / "adopted")
    lines = ran.out.splitlines()
    assert lines[0].startswith("SID tokens: 16, ids ")
    assert "0 codes have no token" in lines[0]
    assert lines[1].endswith(": 0 of 60")
    assert "Below is an instruction" in lines[3]
    assert (
        lines[-1]
        == f"{tmp_path / 'adopted'}: {road.foreign} with the 60 items of {road.foreign_map}"
    )
    words = ran.last.removeprefix("next: sidtool ").split()
    assert len(done(*words).out.splitlines()) >= 10


def test_the_figures_are_one_json_object(road: Road, tmp_path: Path) -> None:
    template = tmp_path / "own.json"
    template.write_text(json.dumps({"prompts": ["Bought: {history}\nNext: "], "separator": "; "}))
    out = tmp_path / "adopted"
    command = ("adopt", road.foreign, road.bundle, "--template", template, "-o", out, "--json")
    plan = done(*command, "--dry-run").json
    assert not out.exists()
    said = done(*command).json
    assert plan == {"dry_run": True, **said}
    assert (said["items"], said["items_without_token"], said["layout"]) == (60, 0, "block")
    assert said["prompt"]["text"].startswith("Bought: <|sid_begin|><s_a_")
    assert said["prompt"]["as_text"]
