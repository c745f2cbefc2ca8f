import json
import re
from pathlib import Path

import pytest

from tests.cli.road import TRAINING, Road, done, link, refused, run, write_lines
from tests.data.split.lines import request_lines
from tests.doc_blocks import blocks, commands, page

TEMPLATES = {
    "prompts": ["{user.age} {history} on {context.device} after {gap}"],
    "items": ["{sid}{event.rating};"],
}


COLUMNS = ("--feedback", "rating", "--context", "device", "--times")


def rated_events(events: Path, folder: Path) -> tuple[Path, Path]:
    """Events of a file with ratings, devices and real times, and a table of its users."""
    cells = [row.split(",") for row in events.read_text(encoding="utf-8").splitlines()[1:]]
    lines = [
        f"{user},{item},{880_000_000 + 3600 * int(at)},{n % 5 + 1},{('tv', 'web')[n % 2]}"
        for n, (user, item, at) in enumerate(cells)
    ]
    header = "user_id,item_id,timestamp,rating,device"
    ages = [f"{user},{20 + n % 3}" for n, user in enumerate(dict.fromkeys(c[0] for c in cells))]
    users = write_lines(folder / "users.csv", ["user_id,age", *ages])
    return write_lines(folder / "events.csv", [header, *lines]), users


@pytest.mark.slow
def test_the_page_on_feedback_runs_as_written(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rated_events(road.events, tmp_path)
    made = {"items.jsonl": road.items, "shop.zarr": road.bundle, "base+sid": road.model}
    link(tmp_path, made)
    text = page("feedback.md")
    templates, sequence, *_ = blocks(text, "json")
    Path("rated.json").write_text(templates, encoding="utf-8")
    for command in commands(text, "bash"):
        words = [word.replace("epochs=10", "epochs=1") for word in command.words]
        done(*words)
    contract = json.loads(Path("tuned/sid.json").read_text(encoding="utf-8"))
    assert [contract["history_prompt"]["item"]] == json.loads(templates)["items"]
    assert Path("weighted/model/sid.json").exists()
    assert json.loads(sequence)["items"] == ["{gap}{sid}{event.rating}"]


def test_fields_reach_the_prompt_and_the_evaluation(road: Road, tmp_path: Path) -> None:
    events, users = rated_events(road.events, tmp_path)
    split, examples = tmp_path / "split", tmp_path / "train.jsonl"
    said = done("split", events, "-o", split, "--users", users, *COLUMNS)
    for line in ("rating:int", "device:str", "age:int"):
        assert line in said.out
    templates = tmp_path / "templates.json"
    templates.write_text(json.dumps(TEMPLATES))
    sft = ("make-sft", road.bundle, road.items, split, "-o", examples, "--model", road.model)
    done(*sft, "--task", "next-item=1", "--template", f"next-item={templates}")
    tuned = tmp_path / "tuned"
    done("train", road.model, examples, "-o", tuned, *TRAINING)
    contract = json.loads((tuned / "sid.json").read_text())
    assert (contract["format"], contract["history_prompt"]["item"]) == (2, "{sid}{event.rating};")

    out = ("-o", tmp_path / "out")
    assert "shows fields" in refused(2, "rl", tuned, examples, *out)
    ran = done("refresh", tuned, road.bundle, split, "-o", tmp_path / "refreshed")
    for text in re.findall(rf"{re.escape(str(tmp_path))}[^\s:,;]*", ran.out + ran.err):
        assert Path(text).exists(), (text, ran.out, ran.err)
    renewed = json.loads((tmp_path / "refreshed" / "sid.json").read_text())
    assert renewed["history_prompt"] == contract["history_prompt"]
    assert "no field of the split" in refused(2, "refresh", tuned, road.bundle, road.split, *out)

    evaluate = ("evaluate", tuned, split, "--num-beams", 10, "--limit", 12)
    said = done(*evaluate, "--by", "user.age", "--weight", "rating", "--target", "rating>=2")
    assert "by user.age" in said.out
    assert "weighted by rating of the target" in said.out
    assert "no such field, only age" in refused(2, *evaluate, "--by", "user.size")

    recommend = ("recommend", tuned, "-k", 3, "--json")
    first = request_lines(split)[0]
    (answer,) = done(*recommend, "--file", "-", text=first).lines
    assert len(answer["items"]) == 3
    request = json.loads(first)
    user_flags = ("--events", split, "--user", request["user"])
    assert "shows {context.device}, which the request lacks" in refused(1, *recommend, *user_flags)
    now = {"context": {"device": "tv"}, "time": request["fields"]["time"] + 60}
    assert len(done(*recommend, *user_flags, "--fields", json.dumps(now)).lines[0]["items"]) == 3
    fields = json.dumps(request["fields"])
    history = ("--history", ",".join(request["history"]))
    assert done(*recommend, *history, "--fields", fields).lines[0]["items"] == answer["items"]
    more = json.dumps({**request["fields"], "user": {**request["fields"]["user"], "size": 3}})
    warned = done(*recommend, *history, "--fields", more).err
    assert "does not show event.device, user.size of --fields: it shows context.device" in warned
    request["fields"]["event"]["rating"].append(1)
    ran = run(*recommend, "--file", "-", text=json.dumps(request))
    assert ran.code == 1
    n = len(request["history"])
    assert f"event.rating has {n + 1} values for {n} items" in ran.lines[0]["error"]
    assert "--fields is not JSON" in refused(2, *recommend, *history, "--fields", "{")


@pytest.mark.slow
def test_values_are_shown_by_tokens_of_their_own(road: Road, tmp_path: Path) -> None:
    events, users = rated_events(road.events, tmp_path)
    split, model, examples = tmp_path / "split", tmp_path / "base+sid", tmp_path / "train.jsonl"
    done("split", events, "-o", split, "--users", users, *COLUMNS)
    tokens = ("--field-token", "user.age=20,21", "--field-token", "gap")
    extend = ("extend-model", road.base, road.bundle, "-o", model)
    assert "no field with its values" in refused(2, *extend, "--field-token", "user.age")
    assert done(*extend, *tokens, "--dry-run", "--json").json["field_tokens"]["gap"]
    done(*extend, *tokens)
    contract = json.loads((model / "sid.json").read_text())
    assert (contract["format"], contract["field_tokens"]["user.age"]) == (2, ["20", "21"])

    templates = tmp_path / "templates.json"
    prompt = {"prompts": ["{user.age:token}{history}{gap:token}"], "items": ["{sid}{gap:token}"]}
    templates.write_text(json.dumps(prompt))
    sft = ("make-sft", road.bundle, road.items, split, "-o", examples)
    mix = ("--task", "next-item=1", "--template", f"next-item={templates}")
    assert "needs a model with tokens for" in refused(2, *sft, *mix, "--model", road.model)
    done(*sft, *mix, "--model", model)
    texts = [json.loads(line)["prompt"] for line in examples.read_text().splitlines()]
    assert {text[: text.index(">") + 1] for text in texts} == {f"<field_{n}>" for n in range(3)}

    out = ("-o", tmp_path / "tuned")
    assert "as another model has them" in refused(3, "train", road.model, examples, *out)
    done("train", model, examples, *out, *TRAINING)
    tuned = tmp_path / "tuned"
    assert json.loads((tuned / "sid.json").read_text())["field_tokens"] == contract["field_tokens"]
    first = request_lines(split)[0]
    (answer,) = done("recommend", tuned, "-k", 3, "--json", "--file", "-", text=first).lines
    assert len(answer["items"]) == 3


@pytest.mark.slow
def test_only_tokens_beside_an_item_move_with_it(road: Road, tmp_path: Path) -> None:
    events, users = rated_events(road.events, tmp_path)
    split, model, out = tmp_path / "split", tmp_path / "base+sid", ("-o", tmp_path / "tuned")
    done("split", events, "-o", split, "--users", users, *COLUMNS)
    tokens = ("--field-token", "event.rating=1,2,3", "--field-token", "gap")
    done("extend-model", road.base, road.bundle, "-o", model, *tokens)
    forms = {"text": "{sid}{event.rating}", "token": "{gap:token}{sid}{event.rating:token}"}
    for name, form in forms.items():
        templates = tmp_path / f"{name}.json"
        templates.write_text(json.dumps({"prompts": ["{history}"], "items": [form]}))
        sft = ("make-sft", road.bundle, road.items, split, "-o", tmp_path / name / "train.jsonl")
        mix = ("--task", "sequence=1", "--template", f"sequence={templates}")
        done(*sft, *mix, "--model", model)
    train = ("train", model, tmp_path / "text" / "train.jsonl", *out, *TRAINING)
    for setting in ("reverse_prob=0.5", "shuffle_span=0.5"):
        assert "nothing but tokens of fields" in refused(2, *train, "--set", setting)
    done(*train[:2], tmp_path / "token" / "train.jsonl", *train[3:], "--set", "reverse_prob=0.5")
