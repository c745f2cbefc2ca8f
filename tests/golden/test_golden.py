"""Golden files of each format: every later version reads them with the same content."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidtool.data.fields.fields import Fields, FieldTypes
from sidtool.data.split.examples import read_examples
from sidtool.data.split.files import read_split
from sidtool.data.split.record import SessionRule
from sidtool.data.split.split import Split
from sidtool.data.split.values import FurtherTarget
from sidtool.examples.example_file import prompt_and_completion, read_training_examples
from sidtool.examples.lineage import read_lineage
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.memory import Memory
from sidtool.model.contract.contract import CONTRACT, Contract
from sidtool.model.contract.folder import read_contract
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.manifest import AlignChange, BuildChange, ItemsChange
from sidtool.tokenizer.make.encode import Decoded, decode
from tests.golden.make import (
    BUNDLE,
    golden_contract,
    golden_contract_2,
    golden_contract_3,
    golden_contract_with_labels,
    golden_contract_with_lists,
    golden_contract_with_reranker,
    golden_memory,
    golden_split_2,
    golden_split_3,
    golden_split_4,
)

GOLDEN = Path(__file__).parent
EXAMPLES = GOLDEN / "examples" / "train.jsonl"
SPLIT_PARTS = GOLDEN / "split-parts"

SPACE = "9021582f75d779123cf410b57aaeac4d7f265b02c0d5bfb6b0dea09b8254c323"
CODEBOOK = "24d24de29f3349dc6928189967c3880fea1be32a6877ab39a5dadc022715730b"
ITEMS = "f4c78cb044c799fe79561e29f1bba63db29bb3ad680e5808cea80cd8198fdba0"
BUNDLE_DIGEST = "249014aa4b2b36652d45edc3936b5df1e24026374d3ad96593da8ba28435c1c0"
BUNDLE_2_DIGEST = "81a7c7b28f405a98f920734154f8ea591aede22abb0d6a95431b8ccae05dac4b"
BUNDLE_LEXICAL_DIGEST = "caa04fbd121dd6d423173e8b85268f9de1c6b782f9c719d8d7a49b96f812d865"
BUNDLE_2_CODES = [[1, 4, 5], [1, 1, 3], [1, 4, 5], [1, 2, 1]]
MEMORY_DIGEST = "eae8007f938ffb3af8c56bb8c72813cefd87c9e5692ed712cec02430b20b6da3"
RERANKER_DIGEST = "acf091019f4d1f1fae0a5cbcf35b39f52f47401b823f08fa56f1a5a19acb02e7"
SPLIT_DIGEST = "89fe96cb64e7f9bbd8ff20b83bf10d2c44cde7890878df890f478396cfe730f8"
SPLIT_PARTS_DIGEST = "8ceb9eb997b17f5324f149266e6f7aff13cef18d34e01f703df084fcce779455"
SPLIT_4_DIGEST = "69b1d892ac43a653653e9acc4b9fb52ce04e1a5424b9dd39af2b0334a30d5064"


def test_the_bundle_of_format_1() -> None:
    assert Bundle.broken(BUNDLE) == []
    bundle = Bundle.open(BUNDLE)
    assert bundle.manifest.format == 1
    identity = bundle.identity
    assert (identity.space, identity.codebook, identity.items) == (SPACE, CODEBOOK, ITEMS)
    assert identity.digest == BUNDLE_DIGEST
    assert list(bundle.items.ids) == ["i1", "i4", "i0", "i2", "ü/é 漢字"]
    assert bundle.items.codes.tolist() == [[0, 0, 0], [1, 3, 2], [2, 1, 4], [2, 1, 4], [3, 4, 5]]
    assert bundle.items.retired.tolist() == [False, True, False, False, False]
    spelled = "<|sid_begin|><s_a_2><s_b_1><s_c_4><|sid_end|>"
    assert bundle.space.spell([2, 1, 4], begin_end_tokens=True) == spelled
    assert bundle.sid("ü/é 漢字") == "<s_a_3><s_b_4><s_c_5>"


def test_the_bundle_of_format_2() -> None:
    assert Bundle.broken(GOLDEN / "bundle-2.zarr.zip") == []
    bundle = Bundle.open(GOLDEN / "bundle-2.zarr.zip")
    assert bundle.manifest.format == 2
    assert bundle.identity.digest == BUNDLE_2_DIGEST
    params = bundle.require_codebook().params
    assert (params.normalize, params.normalize_residuals, params.first_code) == (True, True, 1)
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-3, 2, 1]], dtype=np.float32)
    assert bundle.encode(vectors).tolist() == BUNDLE_2_CODES


def test_the_bundle_with_a_lexical_encoder() -> None:
    assert Bundle.broken(GOLDEN / "bundle-lexical.zarr.zip") == []
    bundle = Bundle.open(GOLDEN / "bundle-lexical.zarr.zip")
    assert bundle.manifest.format == 1
    assert bundle.identity.digest == BUNDLE_LEXICAL_DIGEST
    assert bundle.lexical is not None
    codes = bundle.encode(bundle.lexical.vectors(["red nail", "漢字"]))
    assert codes.tolist() == [[0, 2], [2, 1]]


def test_texts_decode_with_the_bundle_of_format_1() -> None:
    text = "<s_a_2><s_b_1><s_c_4> <s_a_1><s_b_3><s_c_2> <s_a_3><s_b_4><s_c_5> <s_a_0>"
    assert decode(Bundle.open(BUNDLE), text) == [
        Decoded("<s_a_2><s_b_1><s_c_4>", "item", ("i0", "i2"), ("film 0", "film 2, of i0's SID")),
        Decoded("<s_a_1><s_b_3><s_c_2>", "retired", ("i4",), ("retired film",)),
        Decoded("<s_a_3><s_b_4><s_c_5>", "item", ("ü/é 漢字",), ("Amélie — <s_a_1>",)),
        Decoded("<s_a_0>", "malformed"),
    ]


def test_the_codebook_of_format_1_encodes() -> None:
    codebook = Bundle.open(BUNDLE).codebook
    assert codebook is not None
    halves = codebook.levels[0] / 2  # its encoder doubles a vector
    assert codebook.encode(halves).tolist() == [[0, 1, 5], [1, 1, 5], [2, 1, 5], [3, 1, 5]]


def test_the_history_of_a_bundle_of_format_1() -> None:
    manifest = Bundle.open(BUNDLE).manifest
    assert (manifest.name, manifest.version) == ("golden", "2.1")
    assert (manifest.parent, manifest.compatible_with) == ("22" * 32, ("33" * 32,))
    changes = [version.change for version in manifest.history]
    assert changes == [
        BuildChange(4),
        AlignChange("ab" * 32, 4, (4, 3, 2), (4, 4, 3)),
        ItemsChange(added=1, retitled=2, retired=1, catalog="cd" * 32),
    ]
    assert [str(change) for change in changes] == [
        "built with 4 items",
        "aligned abababababab: 3 of 4 SIDs preserved",
        "1 added, 2 retitled, 1 retired",
    ]
    assert manifest.history[1].created == "2026-02-03T04:05:06+00:00"


def test_the_split_of_format_1() -> None:
    split = read_split(GOLDEN / "split")
    assert split.protocol == "leave-one-out"
    assert split.reference.digest == SPLIT_DIGEST
    assert {user.user: user.items for user in split.train} == {
        "u1": ("i0", "i1"),
        "ü2": ("ü/é 漢字", "i1"),
        "u3": ("i2",),
    }
    assert {held.user: held.item for held in split.valid} == {"u1": "i2", "ü2": "i0", "u3": "i0"}
    assert {held.user: (held.history[-1], held.item) for held in split.test} == {
        "u1": ("i2", "ü/é 漢字"),
        "ü2": ("i0", "i2"),
        "u3": ("i0", "i1"),
    }


def recorded(split: Split) -> Split:
    """The split as 0.2.0 records it, without the numbers of repeated and tied targets."""
    return replace(split, origin=replace(split.origin, repeated_targets=None, tied_targets=None))


@pytest.mark.filterwarnings("ignore:1 of 3 users of the events have no row")
def test_the_split_of_format_2() -> None:
    split = read_split(GOLDEN / "split-2")
    assert split.reference.digest == SPLIT_DIGEST  # fields are in no digest
    assert split == recorded(golden_split_2())
    assert split.fields == FieldTypes(
        {"rating": "int"}, {"device": "str"}, {"age": "int", "city": "str"}, True, ("rating>=3",)
    )
    (test,) = [test for test in split.test if test.user == "ü2"]
    assert test.fields == Fields(
        {"age": None, "city": "München"},
        {"rating": (5, 4, 3), "device": (None, "tv", None), "target": ("yes", "yes", "yes")},
        {"device": "tv"},
        (880_000_000, 880_000_060, 880_000_120),
        880_000_180,
    )
    assert test.feedback == {"rating": 5}


def test_the_split_of_format_3() -> None:
    split = read_split(GOLDEN / "split-3")
    assert split == recorded(golden_split_3())
    assert (split.manifest({}).format, split.origin.sessions) == (3, SessionRule(gap=1800.0))
    assert {user.user: (user.items, user.sessions) for user in split.train} == {
        "u1": (("i0", "i1"), (0,)),
        "ü2": (("ü/é 漢字", "i1", "i0", "i2"), (0, 2)),
        "u3": (("i2", "i0"), (0,)),
    }
    (test,) = [test for test in split.test if test.user == "ü2"]
    assert test.history == ("ü/é 漢字", "i1", "i0", "i2", "i2", "i0")
    assert test.items == ("i1", "ü/é 漢字")
    times = [880_000_000 + 3600 * 3 + 60 * at for at in (6, 7)]
    assert (test.fields.time, test.feedback) == (times[0], {"rating": 5})
    assert test.rest == (FurtherTarget("ü/é 漢字", 7, {"rating": 4}, {"device": "tv"}, times[1]),)
    assert split.counts.left_out == 1  # the last event of u1 is no target


def test_the_split_of_format_4() -> None:
    split = read_split(GOLDEN / "split-4")
    assert split == recorded(golden_split_4())
    assert split.manifest({}).format == 4
    assert split.reference.digest == SPLIT_4_DIGEST
    lines = read_split(GOLDEN / "split-3")
    assert (split.train, split.valid, split.test) == (lines.train, lines.valid, lines.test)


def test_the_split_in_parts() -> None:
    split = read_split(SPLIT_PARTS)
    assert split.reference.digest == SPLIT_PARTS_DIGEST
    assert [read_split(SPLIT_PARTS, f"part-000{part}").counts.users for part in (0, 1)] == [6, 1]
    assert not (SPLIT_PARTS / "part-0002").exists()


def test_the_training_examples_of_format_1() -> None:
    lineage = read_lineage(EXAMPLES)
    assert lineage.format == 1
    assert (lineage.bundle.codebook, lineage.split.digest) == (CODEBOOK, SPLIT_DIGEST)
    assert lineage.task_weights == {"sequence": 1.0, "title-to-sid": 1.0}
    assert lineage.history_prompt is not None
    assert (lineage.history_prompt.task, lineage.leaked_events) == ("sequence", 0)
    examples = list(read_training_examples(EXAMPLES))
    counts = {task: counts.examples for task, counts in lineage.tasks.items()}
    assert sum(counts.values()) == len(examples)
    space = Bundle.open(BUNDLE).space
    (film,) = [example for example in examples if "Amélie — <s_a_1>" in example.get("prompt", "")]
    prompt, completion = prompt_and_completion(film, space)
    assert "Amélie — <s_a_1>" in [segment.text for segment in prompt if segment.kind == "catalog"]
    assert [segment.kind for segment in completion] == ["sid"]
    valid = EXAMPLES.with_name("valid.jsonl")
    assert tuple(read_examples(valid)) == read_split(GOLDEN / "split").valid


@pytest.mark.parametrize(
    ("folder", "number", "made"),
    [
        ("model", 1, golden_contract),
        ("model-2", 2, golden_contract_2),
        ("model-3", 3, golden_contract_3),
        ("model-lists", 1, golden_contract_with_lists),
        ("model-labels", 1, golden_contract_with_labels),
        ("model-reranker", 1, golden_contract_with_reranker),
    ],
)
def test_the_contracts(folder: str, number: int, made: Callable[[], Contract]) -> None:
    stored = json.loads((GOLDEN / folder / CONTRACT).read_text(encoding="utf-8"))
    assert stored["format"] == number
    contract = read_contract(GOLDEN / folder)
    assert contract == made()
    assert contract.identity.digest == BUNDLE_DIGEST


def test_the_tokens_of_an_adopted_model() -> None:
    tokens = read_contract(GOLDEN / "model-3").tokens
    assert tokens.level_ids[0].tolist() == [900, -1, 903, 902]
    assert (tokens.begin, tokens.end) == (915, 916)


def test_the_re_ranker_of_a_model() -> None:
    stored = json.loads((GOLDEN / "model-reranker" / CONTRACT).read_text(encoding="utf-8"))
    contract = read_contract(GOLDEN / "model-reranker")
    assert replace(contract, memory=None) == golden_contract()
    assert contract.memory is not None
    reranker = contract.memory.reranker
    assert reranker is not None
    assert reranker.digest == RERANKER_DIGEST
    # by docs/format.md, for an item whose features are one scale above their means
    x = np.ones(22)
    total = 0.0
    values = np.frombuffer(base64.b64decode(stored["memory"]["reranker"]["weights"]), "<f4")
    for row in values.reshape(2, 3526):
        first, first_bias, second, second_bias, output, linear = np.split(
            row, np.cumsum([22 * 48, 48, 48 * 48, 48, 48])
        )
        hidden = _gelu(first.reshape(22, 48).T @ x + first_bias)
        hidden = _gelu(second.reshape(48, 48).T @ hidden + second_bias)
        total += linear @ x + output @ hidden
    inputs = np.array([np.array(reranker.means) + np.array(reranker.scales)])
    (score,) = reranker.scores(reranker.standardized(inputs))
    assert score == pytest.approx(0.5 * total / 2, rel=1e-4)
    # the thirteenth feature of an item without training events is 0
    features = np.ones((2, 22))
    features[1, 12] = 0
    assert reranker.bonuses(features).tolist() == [0, 0.25]


def _gelu(z: np.ndarray) -> np.ndarray:
    return z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def test_the_memory_of_format_1() -> None:
    memory = Memory.open_verified(GOLDEN / "memory.zarr.zip")
    manifest = memory.manifest
    assert memory.digest == MEMORY_DIGEST == golden_memory().digest
    assert manifest.bundle.digest == BUNDLE_DIGEST
    assert manifest.settings == KnnSettings(0.3, 0.5, 0.25, 1.0, 2, 0.25)
    assert (manifest.items, manifest.train_events, manifest.window) == (5, 11, 50)
    assert list(memory.ids) == ["i1", "i4", "i0", "i2", "ü/é 漢字"]
    assert memory.events.tolist() == [3, 0, 3, 3, 2]
    memory.check_bundle(Bundle.open(BUNDLE))
