import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sidtool.base.errors import CompatibilityError, DataError, SidtoolWarning, UsageError
from sidtool.integrations.adopt import AdoptOptions, adopt, check_adoption
from sidtool.integrations.adopt.adoption import find_tokens, level_sizes
from sidtool.integrations.adopt.prompts import WorkedPrompt, adopted_prompt
from sidtool.integrations.formats import import_map, model_tokens
from sidtool.model import load_model_folder
from sidtool.model.contract import read_contract
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.sid import SidSpace
from tests.integrations.adopt import foreign
from tests.integrations.adopt.foreign import Foreign
from tests.models import tiny_tokenizer, unsigned

SYSTEMS: dict[str, tuple[Any, str]] = {
    "openonerec": (foreign.openonerec, "openonerec"),
    "minionerec": (foreign.minionerec, "minionerec"),
    "minionerec-qwen3": (lambda path: foreign.minionerec(path, "qwen3", padding=37), "minionerec"),
    "lc-rec": (foreign.lc_rec, "lc-rec"),
    "letter": (foreign.letter, "letter"),
}
Make = Callable[[str], tuple[Foreign, Path]]


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A system's model, and the folder that it is adopted into; made once."""

    @cache
    def make(name: str) -> tuple[Foreign, Path]:
        folder = tmp_path_factory.mktemp(name)
        build, preset = SYSTEMS[name]
        model = build(folder / "model")
        adopt(model.folder, model.map, folder / "out", AdoptOptions(preset=preset))
        return model, folder / "out"

    return make


@pytest.mark.parametrize("name", SYSTEMS)
def test_recommendations_are_those_of_the_system_itself(name: str, adopted: Make) -> None:
    model, folder = adopted(name)
    loaded = load_model_folder(folder)
    items = list(model.sids)
    options = RecommendOptions(k=8, num_beams=8, normalize="vocabulary")
    for history in (items[:1], items[3:7]):
        (answer,) = recommend(loaded, [Request(user="u", history=tuple(history))], options)
        sids, scores = model.recommend(history, 8)
        assert [model.sids[item] for item in answer.items] == sids
        np.testing.assert_allclose(answer.scores, scores, atol=1e-4)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_prompt_has_the_tokens_that_the_system_reads(name: str, adopted: Make) -> None:
    model, folder = adopted(name)
    preset = SYSTEMS[name][1]
    target = folder.parent / "elsewhere"
    adoption = check_adoption(model.folder, model.map, target, AdoptOptions(preset=preset))
    text = model.prompt(adoption.prompt.history)
    assert list(adoption.prompt.ids) == model.tokenizer(text)["input_ids"]
    assert adoption.prompt.as_text
    apart = replace(adoption, prompt=replace(adoption.prompt, as_text=False))
    assert [text[:52] for text in apart.warnings if text not in adoption.warnings] == [
        "the tokenizer reads the text of the prompt as other "
    ]
    assert not target.exists()


@pytest.mark.parametrize("name", ["openonerec", "minionerec"])
def test_weights_and_tokenizer_are_copied_byte_for_byte(name: str, adopted: Make) -> None:
    model, folder = adopted(name)
    names = {path.name for path in model.folder.iterdir()}
    for file_name in sorted(names - {"config.json"}):
        assert (folder / file_name).read_bytes() == (model.folder / file_name).read_bytes()
    before = json.loads((model.folder / "config.json").read_text())
    after = json.loads((folder / "config.json").read_text())
    assert after.pop("sidtool")["stages"][0]["stage"] == "adopt"
    assert after == before


def test_a_map_may_be_a_folder_of_parquet(adopted: Make, tmp_path: Path) -> None:
    model, _ = adopted("openonerec")
    (tmp_path / "maps").mkdir()
    shutil.copy(model.map, tmp_path / "maps" / "part-0.parquet")
    options = AdoptOptions(preset="openonerec")
    report = check_adoption(model.folder, tmp_path / "maps", tmp_path / "out", options)
    assert report.items == len(model.sids)


def test_tokens_in_order_are_a_block_and_sorted_ones_a_table(adopted: Make) -> None:
    _, folder = adopted("openonerec")
    contract = read_contract(folder)
    assert contract.token_table is None
    assert contract.space.sizes == (16, 16, 16)
    model, folder = adopted("minionerec")
    contract = read_contract(folder)
    assert contract.token_table is not None
    assert json.loads((folder / "sid.json").read_text())["format"] == 3
    used = {token for sid in model.sids.values() for token in sid}
    named = zip(contract.space.tokens, contract.tokens.token_ids.tolist(), strict=True)
    ids = {token: token_id for token, token_id in named if token_id >= 0}
    assert ids == {token: model.tokenizer.convert_tokens_to_ids(token) for token in used}


def test_the_report_counts_rows_codes_and_settings(tmp_path: Path) -> None:
    model = foreign.minionerec(tmp_path / "model", padding=37)
    settings = {"do_sample": True, "top_k": 20, "temperature": 1.0}
    (model.folder / "generation_config.json").write_text(json.dumps(settings))
    options = AdoptOptions(preset="minionerec")
    report = check_adoption(model.folder, model.map, tmp_path / "out", options).to_json()
    n_used = len({token for sid in model.sids.values() for token in sid})
    assert (report["tokens"], report["layout"]) == (n_used, "table")
    assert report["codes_without_token"] == 64 + 16 + 32 - n_used
    assert report["embedding_rows"] == len(model.tokenizer) + 37
    # transformers gives the tokenizer of a Qwen model a token more when it loads it
    loaded = AutoTokenizer.from_pretrained(model.folder)
    assert report["padding_rows"] == report["embedding_rows"] - len(loaded)
    (warning,) = report["warnings"]
    assert "do_sample=True, top_k=20:" in warning


def test_items_without_a_token_are_never_recommended(tmp_path: Path) -> None:
    model = foreign.minionerec(tmp_path / "model")
    index = dict(model.sids)
    index["new"] = ("<a_0>", "<b_1>", "<c_63>")
    model.map.write_text(json.dumps(index))
    adoption = adopt(model.folder, model.map, tmp_path / "out", AdoptOptions(preset="minionerec"))
    assert (adoption.items_without_token, adoption.items) == (1, len(index))
    assert "1 of 31 items have a code without a token" in adoption.warnings[0]
    with pytest.warns(SidtoolWarning, match="1 of 31 items .* 'new'"):
        loaded = load_model_folder(tmp_path / "out")
    options = RecommendOptions(k=31, num_beams=31)
    request = Request(user="u", history=("1", "2"))
    (answer,) = recommend(loaded, [request], options)
    assert sorted(answer.items) == sorted(model.sids)
    # nor does one stand in a history
    with_new = Request(user="u", history=("1", "new", "2"))
    (same,) = recommend(loaded, [with_new], options)
    assert same.items == answer.items


def test_a_bundle_is_adopted_as_its_map(tmp_path: Path, adopted: Make) -> None:
    model, folder = adopted("minionerec")
    import_map(model.map, tmp_path / "shop.zarr")
    options = AdoptOptions(preset="minionerec")
    adoption = adopt(model.folder, tmp_path / "shop.zarr", tmp_path / "out", options)
    assert adoption.contract.tokens == read_contract(folder).tokens
    assert adoption.bundle.identity == Bundle.open(tmp_path / "shop.zarr").identity


def test_engines_get_the_ids_of_the_table(adopted: Make, tmp_path: Path) -> None:
    model, folder = adopted("minionerec")
    bundle = Bundle.open(folder / "sid.zarr")
    exported = model_tokens(folder, bundle)
    assert exported.table is not None
    ids = exported.ids(bundle.items.codes[:3], begin_end_tokens=False).tolist()
    named = [model.tokenizer.convert_ids_to_tokens(row) for row in ids]
    spelled = {tuple(sid) for sid in model.sids.values()}
    assert {tuple(sid) for sid in named} <= spelled
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    unsigned(other)
    settings = json.loads((other / "config.json").read_text())
    for size, message in ((5, "scores 5 tokens, but has the SID token"), (None, "no vocab_size")):
        (other / "config.json").write_text(json.dumps(settings | {"vocab_size": size}))
        with pytest.raises((CompatibilityError, DataError), match=message):
            model_tokens(other, bundle)
    (other / "config.json").unlink()
    with pytest.raises(DataError, match="engines serve whole models, not adapters"):
        model_tokens(other, bundle)


def test_a_prompt_of_the_users_own(tmp_path: Path) -> None:
    model = foreign.minionerec(tmp_path / "model")
    text = "The user has interacted with items {history} in chronological order:\n"
    (tmp_path / "own.json").write_text(json.dumps({"prompts": [text], "separator": " | "}))
    options = AdoptOptions(template_file=tmp_path / "own.json", history_length=2, license="")
    adoption = adopt(model.folder, model.map, tmp_path / "out", options)
    assert adoption.contract.license is None
    prompt = adoption.contract.history_prompt
    assert (prompt.history_length, prompt.max_length, prompt.separator) == (2, 2048, " | ")
    shown = " | ".join("".join(model.sids[item]) for item in adoption.prompt.history)
    assert adoption.prompt.text == text.replace("{history}", shown)


def test_the_worked_prompt_has_the_items_that_fit(tmp_path: Path) -> None:
    model = foreign.minionerec(tmp_path / "model")

    def worked(**limits: int) -> WorkedPrompt:
        options = AdoptOptions(preset="minionerec", **limits)
        return check_adoption(model.folder, model.map, tmp_path / "out", options).prompt

    both = worked()
    for limits in ({"history_length": 1}, {"max_length": len(both.ids) - 1}):
        one = worked(**limits)
        assert (len(one.history), one.as_text) == (1, True)
    with pytest.raises(UsageError, match="no item of a history fits into a prompt of 9 tokens"):
        worked(max_length=9)
    # an item without a title has no tokens, and yet it fits
    templates = {"prompts": ["Items: {history}"], "items": ["{title}"]}
    (tmp_path / "own.json").write_text(json.dumps(templates))
    options = AdoptOptions(template_file=tmp_path / "own.json")
    untitled = check_adoption(model.folder, model.map, tmp_path / "out", options)
    assert (len(untitled.prompt.history), untitled.prompt.text) == (2, "Items: ")
    assert "the prompt shows titles, and the map has none" in untitled.warnings[0]


def broken(name: str, tmp_path: Path) -> tuple[Path, Path, AdoptOptions]:
    """Model, map and options that cannot be adopted."""
    model = foreign.minionerec(tmp_path / "model")
    options = AdoptOptions(preset="minionerec")
    if name == "other spelling":
        sids = model.sids.items()
        spelled = {item: [token.replace("<", "<s_") for token in sid] for item, sid in sids}
        model.map.write_text(json.dumps(spelled))
    if name == "too few rows":
        tokenizer = model.tokenizer
        smaller = foreign.tiny_model("qwen2", vocab_size=len(tokenizer) - 3)
        foreign._save(model.folder, smaller, tokenizer)
    if name == "no level":
        index = {item: [*sid, f"<d_{row}>"] for row, (item, sid) in enumerate(model.sids.items())}
        model.map.write_text(json.dumps(index))
    if name == "markup":
        options = AdoptOptions(preset="openonerec")
    if name == "encoder":
        model = foreign.letter(tmp_path / "model")
    if name == "no start":
        options = AdoptOptions(preset="letter")
        model = foreign.letter(tmp_path / "model")
        for path in (model.folder / "config.json", model.folder / "generation_config.json"):
            settings = json.loads(path.read_text()) | {"decoder_start_token_id": None}
            path.write_text(json.dumps(settings))
    if name == "few positions":
        rows = len(model.tokenizer)
        short = foreign.tiny_model("gpt2", vocab_size=rows, max_position_embeddings=64)
        foreign._save(model.folder, short, model.tokenizer)
    if name == "two prompts":
        path = tmp_path / "own.json"
        path.write_text(json.dumps({"prompts": ["{history}", "Items: {history}"]}))
        options = AdoptOptions(template_file=path)
    if name == "gguf":
        (model.folder / "model.gguf").touch()
        return model.folder / "model.gguf", model.map, options
    if name == "no map":
        return model.folder, tmp_path / "none.json", options
    return model.folder, model.map, options


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("other spelling", CompatibilityError, r"none of the \d+ SID tokens, like <s_a_0>"),
        ("too few rows", CompatibilityError, "embedding rows"),
        ("no level", CompatibilityError, "a level has no token"),
        ("markup", CompatibilityError, "<think> is one token in the prompt of openonerec"),
        ("encoder", UsageError, "for causal models"),
        ("no start", DataError, "has no decoder_start_token_id"),
        ("few positions", UsageError, "no item of a history fits into a prompt of 62 tokens"),
        ("two prompts", UsageError, "has 2 prompts"),
        ("no map", DataError, "none.json"),
        ("gguf", UsageError, "is a GGUF file: adopt copies a folder of safetensors"),
    ],
)
def test_what_cannot_be_adopted_is_refused_before_anything_is_written(
    name: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    model, source, options = broken(name, tmp_path)
    with pytest.raises(error, match=message):
        adopt(model, source, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "prompt that the model was trained with is not known"),
        ({"preset": "lc-rec"}, DataError, "no bundle at .*/maps"),
    ],
)
def test_prompt_and_map_are_looked_for_before_the_model(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        adopt(tmp_path / "none", tmp_path / "maps", tmp_path / "out", **options)


def test_an_adopted_model_is_not_adopted_again(adopted: Make, tmp_path: Path) -> None:
    model, folder = adopted("minionerec")
    with pytest.raises(CompatibilityError, match="has a SID vocabulary already"):
        adopt(folder, model.map, tmp_path / "out", AdoptOptions(preset="minionerec"))


def test_untrained_rows_are_reported(tmp_path: Path) -> None:
    model = foreign.minionerec(tmp_path / "model")
    network = foreign.tiny_model("qwen2", vocab_size=len(model.tokenizer))
    with torch.no_grad():
        network.get_input_embeddings().weight[-3:] = 0.5
    foreign._save(model.folder, network, model.tokenizer)
    options = AdoptOptions(preset="minionerec")
    adoption = check_adoption(model.folder, model.map, tmp_path / "out", options)
    assert adoption.equal_rows == 3
    assert replace(adoption, equal_rows=0).warnings == adoption.warnings[1:]


SPACE = SidSpace((4, 4), "<{level}_{code}>", None, None)


def tokenizer_with(texts: Sequence[str]) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(texts))
    return tokenizer


def bundle_of(codes: Sequence[Sequence[int]], sizes: tuple[int, ...] = (4, 4)) -> Bundle:
    space = SidSpace(sizes, "<{level}_{code}>", None, None)
    ids = [f"i{row}" for row in range(len(codes))]
    items = ItemMap.of(space, ids, np.array(codes, dtype=np.uint16), ids)
    return Bundle.of(items, None, "reassign", name="map")


def texts(level: str, codes: Sequence[int]) -> list[str]:
    return [f"<{level}_{code}>" for code in codes]


def test_codes_without_a_token_have_none() -> None:
    tokenizer = tokenizer_with([*texts("a", [3, 0]), *texts("b", [1, 2, 3])])
    tokens = find_tokens(tokenizer, SPACE)
    first = len(tokenizer) - 5
    level_ids = [ids.tolist() for ids in tokens.level_ids]
    assert level_ids == [[first + 1, -1, -1, first], [-1, first + 2, first + 3, first + 4]]


def test_begin_and_end_tokens_are_needed_where_the_map_has_them() -> None:
    space = SidSpace((2, 2))
    codes = [f"<s_{level}_{code}>" for level in "ab" for code in range(2)]
    with pytest.raises(CompatibilityError, match=r"but not <\|sid_end\|>"):
        find_tokens(tokenizer_with([*codes, "<|sid_begin|>"]), space)
    tokens = find_tokens(tokenizer_with(["<|sid_end|>", *codes, "<|sid_begin|>"]), space)
    assert (tokens.end, tokens.begin) == (tokens.start, tokens.start + 5)


def test_words_of_the_base_vocabulary_are_no_added_tokens() -> None:
    words = {"<unk>": 0, "<a_0>": 1, "<b_0>": 2}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    message = "2 SID tokens, like <a_0>, are words of"
    with pytest.raises(CompatibilityError, match=message) as caught:
        find_tokens(tokenizer, SPACE)
    assert "add_tokens" in (caught.value.hint or "")
    tokenizer.add_tokens(["<a_0>", "<b_0>"])
    assert find_tokens(tokenizer, SPACE).token_ids[[0, 4]].tolist() == [1, 2]


def test_a_tokenizer_without_words_has_a_prompt() -> None:
    backend = Tokenizer(models.BPE({"<pad>": 0, "</s>": 1}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    prompt = adopted_prompt(tokenizer, "encoder-decoder", AdoptOptions(preset="letter"))
    assert (tokenizer("a")["input_ids"], prompt.template) == ([], "{history}")


class Splitting:
    """A tokenizer that has a token and yet reads its text as two."""

    def get_added_vocab(self) -> dict[str, int]:
        names = [SPACE.token(level, code) for level in range(2) for code in range(4)]
        return {name: 10 + number for number, name in enumerate(names)}

    get_vocab = get_added_vocab

    def __call__(self, names: list[str], **_: Any) -> dict[str, list[list[int]]]:
        added = self.get_added_vocab()
        ids = [[added[name], 3] if "b_2" in name else [added[name]] for name in names]
        return {"input_ids": ids}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"token {token_id}" for token_id in ids]


def test_a_token_whose_text_is_read_otherwise_is_refused() -> None:
    with pytest.raises(CompatibilityError, match=r"reads <b_2> as 2 tokens \(token 16, token 3\)"):
        find_tokens(Splitting(), SPACE)


@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [
        (range(6), range(3), (6, 3)),  # every code up to the largest
        ([0, 1, 5], [0, 2], (8, 4)),  # some of them: powers of two
        ([1], [0], (2, 4)),  # fewer than the map uses
        (range(2), [*range(3), 70_000], (2, 3)),  # a number that no level can hold
    ],
)
def test_level_sizes_hold_all_codes_with_tokens(
    a: Sequence[int], b: Sequence[int], sizes: tuple[int, int]
) -> None:
    tokenizer = tokenizer_with([*texts("a", a), *texts("b", b), "<c_900>"])
    used = [[0, 2], [1, 1]]
    assert level_sizes(tokenizer, bundle_of(used)) == sizes
