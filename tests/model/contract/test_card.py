import re
import shlex
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml

from sidtool.model import extend_model
from sidtool.model.contract import Contract, MemoryBinding, read_contract, write_contract
from sidtool.model.contract.card import model_card
from sidtool.model.contract.stage_record import RlParams, StageRecord
from sidtool.model.prompt import HistoryPrompt, TextPrompt
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import done
from tests.model.cases import save_base
from tests.model.contract.cases import HISTORY, TEACHER, TRAINED, trained_model
from tests.models import tiny_encoder_decoder, tiny_tokenizer


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def front_matter(card: str) -> dict[str, object]:
    _, front, _ = card.split("---\n", 2)
    value: dict[str, object] = yaml.safe_load(front)
    return value


def block(card: str, language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    return str(text)


def check_code(folder: Path, bundle: Bundle) -> None:
    """Check that the code of a card, in the current folder, recommends what sidtool recommends."""
    out = StringIO()
    with redirect_stdout(out):
        exec(block(card_of(folder), "python"), {})
    history = tuple(bundle.items.ids[row] for row in (0, 1))
    assert f"in {list(history)!r})" in card_of(folder)
    options = RecommendOptions(k=3, num_beams=50)
    (expected,) = recommend(folder, [Request(history=history)], options)
    assert out.getvalue() == f"{list(expected.items)}\n"


def check_command(folder: Path) -> None:
    """Check that the command of a card recommends ten items."""
    (command,) = re.findall(r"^sidtool (.*)$", block(card_of(folder), "console"), re.MULTILINE)
    assert len(done(*shlex.split(command)).out.splitlines()) == 1 + 10


def test_code_and_command_of_a_card_recommend(
    trained: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    check_code(trained, bundle)
    check_command(trained)


def test_the_code_of_a_card_loads_an_encoder_decoder(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_encoder_decoder("t5", vocab_size=len(tokenizer))
    base = save_base(tmp_path / "base", model, tokenizer)
    folder = trained_model(base, bundle, tmp_path / "model")
    assert front_matter(card_of(folder))["pipeline_tag"] == "text2text-generation"
    monkeypatch.chdir(folder)
    check_code(folder, bundle)


@pytest.mark.parametrize(
    ("task", "template", "item"),
    [
        ("next-item", "{user.age}, {context.device}: {history} {gap}", "{sid}{event.rating}{ago} "),
        ("sequence", "{history}", "{event.device}{gap}{sid}{event.rating}"),
    ],
)
def test_the_command_of_a_card_has_the_fields_of_the_prompt(
    task: str,
    template: str,
    item: str,
    trained: Path,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = HistoryPrompt(task, template, 5, 200, item=item)
    write_contract(trained, replace(read_contract(trained), history_prompt=prompt), bundle)
    assert "```python" not in card_of(trained)  # its prompt would lack the fields
    monkeypatch.chdir(trained)
    check_command(trained)


def test_a_card_shows_recipe_data_and_metric(trained: Path) -> None:
    card = card_of(trained)
    for row in (
        "| learning_rate | 0.002 |",
        "| teachers | teacher (eeeeeeeeeeee) |",
        "| tasks and weights of stage 2 | sequence 1, title-to-sid 0.5 |",
        f"| split of stage 2 | {'12' * 32} (temporal) |",
        "| held out in stage 2 | validation from 3.0, test from 5.0 |",
        "| 2. full | ndcg@10 | 0.0713 | 400 |",
        "| items | 20 |",
        "| perplexity on held-out general text, stage 2 | 20.5 before, 21.25 after |",
    ):
        assert row in card
    assert "/home/someone" not in card
    assert "metric_k" not in card


def test_a_card_shows_what_identifies_the_input_of_any_reward(
    trained: Path, bundle: Bundle
) -> None:
    inputs = {"collaborative": "ab" * 32, "label": TEACHER.to_json(), "price": {"rows": 60}}
    params = RlParams(
        TRAINED.examples, TRAINED.split, TEACHER, {}, {}, TRAINED.run, reward_inputs=inputs
    )
    card = model_card(read_contract(trained).with_stage(StageRecord("rl", params)), bundle)
    assert f"| input of collaborative | {'ab' * 32} |" in card
    assert "| input of label | teacher (eeeeeeeeeeee) |" in card
    assert "| input of price | {'rows': 60} |" in card


def test_what_is_not_known_is_not_in_the_metadata(trained: Path, bundle: Bundle) -> None:
    contract = read_contract(trained)
    card = front_matter(card_of(trained))
    (entry,) = card.pop("model-index")
    tags = ["sidtool", "semantic-ids", "generative-recommendation", "recommender-system"]
    facts = {"library_name": "sidtool", "pipeline_tag": "text-generation", "license": "cc-by-4.0"}
    assert card == {**facts, "tags": [*tags, "transformers"]}
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "shop", "name": "shop", "split": "validation"},
        "metrics": [{"type": "ndcg@10", "value": 0.0713}],
    }
    assert entry == {"name": "shop", "results": [result]}
    hub = replace(contract, license=None, base_model="hf://org/base@v1")
    metadata = front_matter(model_card(hub, bundle))
    assert "license" not in metadata
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("org/base", "finetune")


def test_the_metadata_has_the_metric_of_the_mixture(trained: Path, bundle: Bundle) -> None:
    validation = {"users": 943.0, "ndcg@10 candidates by model": 0.07, "ndcg@10 mixture": 0.09}
    binding = MemoryBinding("ab" * 32, 0.4, 3.0, validation)
    card = model_card(replace(read_contract(trained), memory=binding), bundle)
    (entry,) = front_matter(card)["model-index"]
    assert entry["results"][0]["metrics"] == [{"type": "ndcg@10", "value": 0.09}]
    assert "| memory | users | 943 | - |" in card


def test_a_license_cannot_write_metadata(trained: Path, bundle: Bundle) -> None:
    hostile = "mit'\"\n---\nlibrary_name: other # {x: ["
    metadata = front_matter(model_card(replace(read_contract(trained), license=hostile), bundle))
    assert metadata["license"] == hostile.replace("\n", " ")
    assert metadata["library_name"] == "sidtool"


def test_names_on_a_card_are_text(trained: Path, bundle: Bundle) -> None:
    renamed = Bundle(replace(bundle.manifest, name="<script>\n# x"), bundle.arrays)
    card = model_card(read_contract(trained), renamed)
    assert r"# A generative recommender for \<script\> # x" in card


def loading_of(contract: Contract, bundle: Bundle) -> str:
    _, _, section = model_card(contract, bundle).partition("## How to load it\n")
    return section.partition("## Recipe")[0]


def test_a_card_says_how_each_kind_of_model_is_loaded(trained: Path, bundle: Bundle) -> None:
    contract = read_contract(trained)
    titles = replace(HISTORY, history_as="title")
    text_prompt = TextPrompt("query-to-sid", "Wanted: {item}", 64)
    untrained = replace(contract, history_prompt=None)
    assert "sidtool train" in loading_of(untrained, bundle)
    assert "`sidtool evaluate-task . sequence` tests" in model_card(untrained, bundle)
    assert "--query" in loading_of(replace(untrained, text_prompt=text_prompt), bundle)
    by_titles = loading_of(replace(contract, history_prompt=titles), bundle)
    assert f"--history {bundle.items.ids[0]},{bundle.items.ids[1]}" in by_titles
    assert "python" not in by_titles
    adapters = replace(contract, base_folder=TEACHER)
    assert "python" not in loading_of(adapters, bundle)
    assert "LoRA over the model teacher (eeeeeeeeeeee)" in model_card(adapters, bundle)


def test_a_card_shows_the_memory_and_its_validation(trained: Path, bundle: Bundle) -> None:
    binding = MemoryBinding("ab" * 32, 0.4, 1.5, {"ndcg@10 mixture": 0.0812, "users": 100.0})
    card = model_card(replace(read_contract(trained), memory=binding), bundle)
    assert f"| memory | {'ab' * 32}, weight 0.4, power 1.5 |" in card
    assert "| memory | ndcg@10 mixture | 0.0812 | - |" in card


def test_the_card_of_the_base_is_not_taken_over(base: Path, bundle: Bundle, tmp_path: Path) -> None:
    (base / "README.md").write_text("the card of the base")
    extend_model(base, bundle, tmp_path / "model")
    assert "the card of the base" not in card_of(tmp_path / "model")
