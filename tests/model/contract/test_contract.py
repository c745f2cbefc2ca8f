import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.model.contract import (
    Contract,
    MemoryBinding,
    ModelReference,
    RebindParams,
    StageRecord,
    open_bundle_copy,
    read_contract,
    refuse_base_as_output,
    verify_model,
    write_contract,
)
from sidtool.model.contract.folder import with_bases
from sidtool.model.contract.stage_record import ExtendParams, MergeParams
from sidtool.model.prompt import HistoryPrompt
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle
from tests.model.cases import distinct_codes, make_bundle, make_codebook
from tests.model.conftest import shop
from tests.model.contract.cases import HISTORY, TEACHER, TRAINED
from tests.sealed import reseal


def contract_of(bundle: Bundle) -> Contract:
    return Contract(
        identity=bundle.identity,
        space=bundle.space,
        token_start=471,
        base_model="org/model",
        base_revision="0123abc",
        base_weights={"model.safetensors": "ff" * 32},
        stages=(StageRecord("extend", ExtendParams("codebook", 3)), StageRecord("full", TRAINED)),
        history_prompt=HISTORY,
        normalize="trie",
    )


@pytest.fixture(scope="module")
def stored_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    write_contract(folder, contract_of(shop()), shop())
    return folder


@pytest.fixture
def stored(stored_folder: Path, tmp_path: Path) -> Path:
    """A folder with a contract and its bundle, and nothing else."""
    return Path(shutil.copytree(stored_folder, tmp_path / "stored"))


def test_a_contract_is_read_as_it_was_written(bundle: Bundle, tmp_path: Path) -> None:
    written = contract_of(bundle)
    stored = write_contract(tmp_path, written, bundle)
    assert read_contract(tmp_path) == stored
    assert stored == replace(written, files=stored.files)
    assert open_bundle_copy(tmp_path, written).items.ids[3] == bundle.items.ids[3]
    assert Bundle.broken(tmp_path / "sid.zarr") == []
    write_contract(tmp_path, written, bundle)  # a checkpoint that is written again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "sid.json", "sid.zarr"]


PLAIN = HistoryPrompt("next-item", "{history}\n", 10, 100)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"history_prompt": PLAIN}, 1),
        ({"history_prompt": replace(PLAIN, item="- {sid}")}, 2),
        ({"history_prompt": replace(PLAIN, template="{user.age}{history}")}, 2),
        ({"kind": "encoder-decoder"}, 2),
        ({"user_tokens": 5}, 2),
        ({"field_tokens": {"event.rating": ("4", "5")}}, 2),
    ],
)
def test_readers_that_would_misuse_a_model_refuse_its_format(
    changes: dict[str, Any], number: int, bundle: Bundle
) -> None:
    contract = replace(contract_of(bundle), **changes)
    assert contract.to_json()["format"] == number
    assert Contract.from_json(contract.to_json()) == contract


def test_unknown_keys_are_ignored_and_newer_formats_refused(bundle: Bundle, stored: Path) -> None:
    reseal(stored / "sid.json", {"future": 1})
    assert replace(read_contract(stored), files={}) == contract_of(bundle)
    value = json.loads((stored / "sid.json").read_text())
    (stored / "sid.json").write_text(json.dumps({**value, "future": 2}))
    with pytest.raises(IntegrityError, match=r"sid\.json is damaged: it differs from its own SHA"):
        read_contract(stored)
    reseal(stored / "sid.json", {"format": 99})
    message = "has format 99, this version of sidtool reads up to"
    with pytest.raises(CompatibilityError, match=message):
        read_contract(stored)


@pytest.mark.parametrize(
    "record",
    [
        StageRecord("merge", MergeParams(TEACHER)),
        StageRecord("rebind", RebindParams("ff" * 32, "aligned", 0.25)),
        StageRecord("embeddings", TRAINED),
    ],
    ids=lambda record: record.stage,
)
def test_a_further_stage_is_appended(record: StageRecord, bundle: Bundle) -> None:
    """The memory is not that of the new weights."""
    memory = MemoryBinding("ab" * 32, 0.4, 2.0, {})
    before = replace(contract_of(bundle), memory=memory)
    after = before.with_stage(record, base_folder=TEACHER)
    assert after.memory is None
    assert before.with_stage(record, memory=memory).memory == memory
    assert after.stages == (*before.stages, record)
    assert (after.stages[-1], after.base_folder) == (record, TEACHER)
    assert Contract.from_json(json.loads(json.dumps(after.to_json()))) == after
    assert after.example_format == "plain"
    assert after.training_of("sequence") == TRAINED
    assert after.training_of("next-item") is None


def test_a_stage_of_a_later_version_is_read_without_its_params(bundle: Bundle) -> None:
    value = contract_of(bundle).to_json()
    value["stages"] = [*value["stages"], {"stage": "future", "params": {"new": 1}}]
    value["stages"][0]["params"]["new"] = 1
    contract = Contract.from_json(value)
    assert contract.stages[:-1] == contract_of(bundle).stages
    assert contract.stages[-1] == StageRecord("future", None)


def with_table(bundle: Bundle) -> Contract:
    """A contract whose ids are reversed, so that they are no block."""
    n = len(bundle.space.tokens)
    tokens = SidTokens.of_ids(bundle.space, range(471 + n - 1, 470, -1))
    return replace(contract_of(bundle), token_start=471, token_table=tokens.table)


def test_a_token_table_is_stored_in_format_3(bundle: Bundle) -> None:
    contract = with_table(bundle)
    value = json.loads(json.dumps(contract.to_json()))
    assert value["format"] == 3
    assert Contract.from_json(value) == contract
    assert contract.added_ids == contract_of(bundle).added_ids == range(471, 471 + 8 + 4 + 6 + 2)
    assert "token_table" not in contract_of(bundle).to_json()


@pytest.mark.parametrize(
    ("key", "member", "problem"),
    [
        ("codes", [[1, 2], [3]], "codes"),
        ("codes", "all", "codes"),
        ("begin", None, "begin and end"),
        ("begin", -1, "begin or the end"),
        ("end", 472, "one id"),
        ("end", 9_999_999_999, "token_start"),
        ("end", 3, "token_start"),
    ],
)
def test_an_impossible_token_table_is_malformed(
    key: str, member: object, problem: str, bundle: Bundle
) -> None:
    value = json.loads(json.dumps(with_table(bundle).to_json()))
    del value["token_stop"]
    value["token_table"][key] = member
    with pytest.raises(IntegrityError, match=problem):
        Contract.from_json(value)


@pytest.mark.parametrize("more", [{"user_tokens": 3}, {"field_tokens": {"event.rating": ["4"]}}])
def test_a_token_table_excludes_tokens_of_users_and_fields(
    more: dict[str, Any], bundle: Bundle
) -> None:
    value = json.loads(json.dumps(with_table(bundle).to_json())) | more
    with pytest.raises(IntegrityError, match="tokens of users"):
        Contract.from_json(value)


def test_rows_with_others_between_them_are_not_trained_alone(bundle: Bundle) -> None:
    ids = [471 + 2 * index for index in range(len(bundle.space.tokens))]
    tokens = SidTokens.of_ids(bundle.space, ids)
    contract = replace(contract_of(bundle), token_table=tokens.table)
    with pytest.raises(UsageError, match="other tokens between them"):
        _ = contract.added_ids


def test_a_missing_folder_is_not_called_a_model_without_a_contract(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no model folder"):
        read_contract(tmp_path / "tuned")
    with pytest.raises(DataError, match="there is no model at"):
        verify_model(str(tmp_path / "tuned"))


def test_a_published_model_is_to_be_pulled(tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_text("{}")
    for name, error in (("tuned@prod", DataError), (".", CompatibilityError)):
        with pytest.raises(error) as raised:
            read_contract(tmp_path / name)
        hint = f"sidtool pull {tmp_path / name} -o DIR copies a published model"
        assert raised.value.shell_hint == hint


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"'])
def test_a_json_value_that_is_no_contract_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "sid.json").write_text(text)
    with pytest.raises(IntegrityError, match="is damaged"):
        read_contract(tmp_path)


def test_a_contract_has_a_largest_size(tmp_path: Path) -> None:
    with (tmp_path / "sid.json").open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(IntegrityError, match=r"sid\.json is damaged: it has more than 16777216"):
        read_contract(tmp_path)


@pytest.mark.parametrize(
    ("base", "start", "message"),
    [("stored", 471, "is an adapter whose base is itself"), ("base", 472, "from id 472, its base")],
)
def test_a_base_that_cannot_be_one_is_refused(
    base: str, start: int, message: str, stored: Path
) -> None:
    shutil.copytree(stored, stored.with_name("base"))
    reference = ModelReference(str(stored.with_name(base)), {})
    bundle = shop()
    contract = replace(contract_of(bundle), base_folder=reference, token_start=start)
    write_contract(stored, contract, bundle)
    with pytest.raises(CompatibilityError, match=message):
        with_bases(stored, contract)
    refuse_base_as_output(stored.with_name("out"), contract)
    with pytest.raises(UsageError, match="is the base of adapters, which need it"):
        refuse_base_as_output(Path(reference.path), contract)


def test_a_folder_with_the_copy_of_another_bundle_is_refused(stored: Path) -> None:
    other = make_bundle(["a"], distinct_codes(1), codebook=make_codebook())
    other.save(stored / "sid.zarr", force=True)
    with pytest.raises(CompatibilityError, match=r"sid\.zarr is bundle .*, sid\.json") as caught:
        open_bundle_copy(stored, read_contract(stored))
    assert str(caught.value.shell_hint).startswith("put that bundle back")


OTHER_SPACES = [{"begin": "<|begin|>"}, {"end": "<|end|>"}, {"begin": None, "end": None}]
OTHER_SPACES += [{"template": "<x_{level}_{code}>"}, {"sizes": [4, 8, 6]}, {"sizes": [8, 4, 5]}]


@pytest.mark.parametrize("changes", OTHER_SPACES, ids=str)
def test_a_space_other_than_that_of_the_bundle_copy_is_refused(
    changes: dict[str, object], stored: Path
) -> None:
    space = json.loads((stored / "sid.json").read_text())["space"] | changes
    reseal(stored / "sid.json", {"space": space, "token_stop": ...})
    with pytest.raises(CompatibilityError, match="its bundle copy has") as caught:
        open_bundle_copy(stored, read_contract(stored))
    assert caught.value.exit_code == 3
    assert next(iter(changes)) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        ("format", True),
        ("space", ...),
        ("space.sizes", [8.0, 4, 6]),
        ("space.template", "no slots"),
        ("token_start", 1 << 60),
        ("token_stop", 490),
        ("token_stop", 492),
        ("stages", []),
        ("stages", [{"stage": "extend", "params": {"init": "mean"}}]),
        ("history_prompt.template", "without a slot"),
        ("history_prompt.history_length", 1 << 40),
        ("history_prompt.format", "html"),
        ("text_prompt", {"task": "t", "template": "{history}", "max_length": 3}),
        ("normalize", "vocabulary"),
        ("base_folder", {"path": "base", "weights": {"a": 1}}),
    ],
    ids=str,
)
def test_a_value_of_another_type_or_range_is_named(path: str, damage: object, stored: Path) -> None:
    value = json.loads((stored / "sid.json").read_text())
    parent, _, key = path.rpartition(".")
    changes = {parent: value[parent] | {key: damage}} if parent else {key: damage}
    reseal(stored / "sid.json", changes)
    with pytest.raises((IntegrityError, CompatibilityError)) as caught:
        read_contract(stored)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert ("template" if key == "text_prompt" else key.removesuffix("s")) in str(caught.value)
