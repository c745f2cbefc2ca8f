"""Templates with fields: training examples and serving have the same token ids, and nothing that is
known only after an event helps to predict it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data import FieldName, FieldOptions, FieldTypes, Items
from sidtool.data.split import Split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.examples import ExampleMaker, SftOptions, templates_for
from sidtool.examples.example_file import example_json, prompt_and_completion
from sidtool.model.prompt import PromptEncoder, Templates, history_prompt_ids
from sidtool.recommendation import QuerySession, Request
from sidtool.tokenizer.bundle import Bundle
from tests.loaded import loaded_model
from tests.model.prompt.cases import extended_tokenizer

AROUND = "{user.age} {user.city}:{history}on {context.device}, after {gap}"
BESIDE = "{event.rating}{sid}{gap} {ago};"
BESIDE_TITLE = "{title} ({event.rating}, {event.device})"
BESIDE_EACH = "{gap} {event.device}{sid} {event.rating}"
TEMPLATES = {
    "next-item": Templates((AROUND, "{history}?"), "", (BESIDE, "{sid}")),
    "title-history-to-sid": Templates((AROUND,), "\n", (BESIDE_TITLE,)),
    "sequence": Templates(("{user.age}:{history}",), "|", (BESIDE_EACH,)),
}
TYPES = FieldTypes({"rating": "int"}, {"device": "str"}, {"age": "int", "city": "str"}, times=True)


def split_of(rows: list[Any], users: list[Any], folder: Path) -> Split:
    """A split of users u0, u1 ... with five events each."""
    events = folder / "events.jsonl"
    with events.open("w") as stream:
        for number, (rating, device, seconds) in enumerate(rows):
            row = {"user_id": f"u{number // 5}", "item_id": f"i{7 * number % 40}"}
            row |= {"timestamp": 880_000_000 + number * seconds, "rating": rating}
            stream.write(json.dumps(row | {"device": device or "-"}) + "\n")
    table = folder / "users.jsonl"
    with table.open("w") as stream:
        for number, (age, city) in enumerate(users):
            user = {"user_id": f"u{number}", "age": age, "city": city or "-"}
            stream.write(json.dumps(user) + "\n")
    user_fields = (FieldName("age", "int"), FieldName("city", "str"))
    rating, device = (FieldName("rating", "int"),), (FieldName("device", "str"),)
    fields = FieldOptions(rating, device, user_fields, table, True)
    return make_split(events, SplitOptions(fields=fields))


def requests_of(split: Split) -> Iterator[tuple[Any, Request]]:
    """Every training event with a history, and the request that would be served before it, by the
    way of JSON."""
    for sequence in split.train:
        for position in range(1, len(sequence.items)):
            fields = sequence.fields.before(position, tuple(split.fields.context))
            value = {"history": list(sequence.items[:position]), "fields": fields.to_json()}
            request = Request.from_json(json.loads(json.dumps(value)))
            yield (sequence.user, sequence.items[position], position), request


def served(
    maker: ExampleMaker, request: Request, bundle: Bundle, catalog: Items, *model: Any
) -> Any:
    rows = bundle.items.rows(request.history)
    titles = [catalog.titles[int(item[1:])] for item in request.history]
    codes = bundle.items.codes[rows]
    return history_prompt_ids(maker.prompts.history, *model, codes, titles, request.fields)


PIECES = ("<s_a_1>", "<|sid_begin|>", "<|im_start|>", "<eos>", "{gap}", " ", "tv", "caf\u00e9", "4")


def random_split(seed: int, folder: Path) -> Split:
    """A split of six users whose texts contain markup."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        return "".join(PIECES[piece] for piece in rng.integers(0, len(PIECES), rng.integers(0, 4)))

    spans = (1, 100, 90_000)
    rows = [(int(rng.integers(1, 6)), text(), spans[rng.integers(3)]) for _ in range(30)]
    return split_of(rows, [(int(rng.integers(99)), text()) for _ in range(6)], folder)


@pytest.mark.parametrize("format_", ["plain", "chat"])
@pytest.mark.parametrize("task", ["next-item", "title-history-to-sid"])
@pytest.mark.parametrize(("max_length", "shows_fields"), [(300, 1), (4000, 1), (90, 0), (4000, 0)])
def test_a_served_prompt_equals_the_training_prompt(
    tmp_path: Path,
    bundle: Bundle,
    catalog: Items,
    task: str,
    format_: Any,
    max_length: int,
    shows_fields: int,
) -> None:
    tokenizer, tokens = extended_tokenizer(bundle.space)
    encoder = PromptEncoder(tokenizer, tokens)
    templates = {task: TEMPLATES[task]} if shows_fields else {}
    options = SftOptions({task: 1.0}, format_, max_length, 3, templates=templates)
    for seed in range(3):
        split = random_split(seed, tmp_path)
        maker = ExampleMaker(bundle, catalog, options, tokenizer, (), split.fields)
        trained = {}
        for example in maker.examples(split):
            stored = json.loads(json.dumps(example_json(bundle.space, example)))
            prompt, _ = prompt_and_completion(stored, bundle.space)
            trained[example.events[-1]] = encoder.ids(prompt)
        expected = {
            event: served(maker, request, bundle, catalog, tokenizer, tokens)
            for event, request in requests_of(split)
        }
        assert trained == expected
        assert all(len(ids) <= max_length for ids in trained.values())


@pytest.mark.parametrize("history_length", [2, 10])
@pytest.mark.parametrize(
    "templates",
    [
        None,
        TEMPLATES["sequence"],
        Templates(("{user.age}:{history}",), "\n"),
        Templates(("{history}",), " | "),
    ],
    ids=["its own", "slots", "separator and a slot", "separator"],
)
def test_a_sequence_contains_every_served_prompt(
    tmp_path: Path, bundle: Bundle, catalog: Items, templates: Templates | None, history_length: int
) -> None:
    split = random_split(history_length, tmp_path)
    tokenizer, tokens = extended_tokenizer(bundle.space)
    mine = {} if templates is None else {"sequence": templates}
    options = SftOptions({"sequence": 1.0}, "plain", 9000, history_length, templates=mine)
    maker = ExampleMaker(bundle, catalog, options, tokenizer, (), split.fields)
    encoder = PromptEncoder(tokenizer, tokens)
    sequences = []
    for example in maker.examples(split):
        stored = json.loads(json.dumps(example_json(bundle.space, example)))
        prompt, completion = prompt_and_completion(stored, bundle.space)
        sequences.append((example.events[0][0], encoder.ids([*prompt, *completion])))
    for (owner, _, position), request in requests_of(split):
        if position <= history_length:
            ids = served(maker, request, bundle, catalog, tokenizer, tokens)
            assert any(
                owner == user and sequence[: len(ids)] == ids for user, sequence in sequences
            )


def test_a_separator_stands_between_sids(tmp_path: Path, bundle: Bundle, catalog: Items) -> None:
    split = split_of([(1, "tv", 1) for _ in range(15)], [(7, "Ulm")] * 3, tmp_path)
    templates = {"next-item": Templates(("{history}?",), ", ")}
    options = SftOptions({"next-item": 1.0}, templates=templates)
    maker = ExampleMaker(bundle, catalog, options, None, (), split.fields)
    prompts = ([part.text or "#" for part in example.prompt] for example in maker.examples(split))
    shown = {"".join(texts).partition("?")[0] for texts in prompts}
    assert shown == {"#", "#, #"}


def test_sequences_end_with_the_last_target(tmp_path: Path, bundle: Bundle, catalog: Items) -> None:
    split = split_of([(at % 5 + 1, "tv", 1) for at in range(15)], [(7, "Ulm")] * 3, tmp_path)
    options = SftOptions({"sequence": 1.0}, templates={"sequence": TEMPLATES["sequence"]})
    maker = ExampleMaker(bundle, catalog, options, None, (), split.fields)
    for example in maker.examples(split):
        assert example.completion[-1].kind == "sid"
        texts = "".join(segment.text or "#" for segment in example.segments)
        assert texts == "7:unknown tv# 1|seconds tv# 2|seconds tv#"


@pytest.mark.parametrize(
    ("task", "prompt", "item", "message"),
    [
        ("next-item", "{history}{user.size}", "", "user fields are: age, city"),
        ("next-item", "{history}{context.rating}", "", "context fields are: device"),
        ("next-item", "{history}{event.rating}", "", "belongs into the form of an item"),
        ("next-item", "{history}{ago}", "", "belongs into the form of an item"),
        ("next-item", "history", "", "must contain {history} exactly once"),
        ("next-item", "{history}", "{sid}{user.age}", "belongs into a prompt"),
        ("next-item", "{history}", "{event.stars}{sid}", "event fields are: rating, device"),
        ("next-item", "{history}", "{event.rating}", "must contain {sid} exactly once"),
        ("title-history-to-sid", "{history}", "{sid}", "must contain {title} exactly once"),
        ("title-history-to-sid", "{history}", "{sid} {title}", "once, and no other slot of"),
        ("next-item", "{users.age}{history}", "", "has {users.age}, which is no slot"),
        ("next-item", "{history}", "{sid}{rating}", "has {rating}, which is no slot"),
        ("next-item", "{history}{length}", "", "has {length}, which is no slot"),
        ("sequence", "{history}.", "", "ends with its history"),
        ("sequence", "{context.device}{history}", "", "differs from item to item"),
        ("sequence", "{gap}{history}", "", "differs from item to item"),
        ("sequence", "{history}", "{sid}{ago}", "needs a single target"),
        ("sequence", "{history}", "{event.rating}{sid}", "known only after its event"),
        ("predict-rating", "{gap}{history}", "", "the one in question"),
        ("predict-rating", "{feedback.rating}{history}", "", "known only after the event"),
        ("next-item", "{feedback.rating}{history}", "", "known only after the event"),
    ],
)
def test_templates_that_do_not_fit_are_refused(
    bundle: Bundle, catalog: Items, task: str, prompt: str, item: str, message: str
) -> None:
    templates = {task: Templates((prompt,), "", (item,) if item else ())}
    options = SftOptions({task: 1.0}, templates=templates)
    with pytest.raises(UsageError) as error:
        ExampleMaker(bundle, catalog, options, fields=TYPES)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (Templates(("{history}", "Bought: {history}"), ""), "2 prompts of task sequence"),
        (Templates(("{history}",), " {gap} "), "separator ' {gap} ' has {gap}"),
    ],
)
def test_a_sequence_has_one_prompt_and_a_separator_no_slot(
    bundle: Bundle, catalog: Items, templates: Templates, said: str
) -> None:
    options = SftOptions({"sequence": 1.0}, templates={"sequence": templates})
    with pytest.raises(UsageError, match=said):
        ExampleMaker(bundle, catalog, options, fields=TYPES)


def test_the_fields_of_a_task_are_filled_in_beside_all_fields() -> None:
    templates = Templates(("{fields}: {history} by {field} {feedback}",), "", ("{sid}{event}",))
    filled = templates_for("next-item-by-rating", templates, TYPES)
    all_fields = "age {user.age}, city {user.city}, device {context.device}, last event {gap} ago"
    assert filled.prompts == (all_fields + ": {history} by rating {feedback.rating}",)
    assert filled.items == ("{sid}{event.rating}",)


def test_templates_need_a_task_with_a_history(bundle: Bundle, catalog: Items) -> None:
    templates = Templates(("{history}",), "")
    with pytest.raises(UsageError, match="not in the mix"):
        SftOptions({"sequence": 1.0}, templates={"next-item": templates})
    for task in ("title-to-sid", "history-text"):
        with pytest.raises(UsageError, match="takes no templates"):
            SftOptions({task: 1.0}, templates={task: templates})
    mine = {"next-item": Templates(("{gap}{history}",), "")}
    timed = SftOptions({"next-item": 1.0}, templates=mine)
    with pytest.raises(UsageError, match="needs the times"):
        ExampleMaker(bundle, catalog, timed, fields=FieldTypes())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no JSON object of prompts, separator and items"),
        ('{"prompt": "x"}', "no JSON object of"),
        ('{"prompts": "x"}', "prompts is 'x', not a list"),
        ('{"prompts": []}', "has no prompts"),
        ('{"prompts": ["x"], "separator": 1}', "separator is 1"),
        ('{"prompts": ["x"], "items": ["a", "b"]}', "2 items for 1 prompts"),
        ("{", "not valid JSON"),
    ],
)
def test_malformed_template_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Templates.read(path)
    with pytest.raises(DataError, match="cannot read"):
        Templates.read(tmp_path / "none.json")
    path.write_text('{"prompts": ["{history}"], "items": ["{sid}"], "separator": " "}')
    assert Templates.read(path) == Templates(("{history}",), " ", ("{sid}",))


def test_items_that_the_bundle_lacks_take_their_fields_along(
    bundle: Bundle, catalog: Items
) -> None:
    templates = {"next-item": TEMPLATES["next-item"]}
    options = SftOptions({"next-item": 1.0}, "plain", templates=templates)
    maker = ExampleMaker(bundle, catalog, options, None, (), TYPES)
    session = QuerySession.of(loaded_model(bundle, history_prompt=maker.prompts.history))
    fields: Any = {"user": {"age": 1, "city": "x"}, "context": {"device": None}, "time": 1000}
    more = {"event": {"rating": [5, 1, 4]}, "times": [0, 10, 500]}
    whole = Request.from_json({"history": ["i1", "nobody", "i2"], "fields": fields | more})
    fewer = {"event": {"rating": [5, 4]}, "times": [0, 500]}
    part = Request.from_json({"history": ["i1", "i2"], "fields": fields | fewer})
    histories = ((bundle.items.rows(request.history), request.fields) for request in (whole, part))
    prompts = [session.from_history(*history) for history in histories]
    assert prompts[0] == prompts[1]
    with pytest.raises(DataError, match=r"shows \{event.rating\}, which the request lacks"):
        session.from_history(np.array([0]))
