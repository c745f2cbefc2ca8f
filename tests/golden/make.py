"""Write the golden files of the current formats: `python -m tests.golden.make`. Files of a released
format are never written again; a new format gets new files."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.items import Items, make_items
from sidtool.data.split.files import write_split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.record import Cuts, SessionRule, SplitReference
from sidtool.data.split.split import Split
from sidtool.data.split.values import UserSequence
from sidtool.examples.examples_run import make_sft
from sidtool.examples.sft_options import SftOptions
from sidtool.integrations.ray.split_parts import PartOptions, split_in_parts
from sidtool.memory.build import build_memory
from sidtool.memory.features import N_FEATURES
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.memory import Memory
from sidtool.memory.reranker import SHAPES, Network, Reranker
from sidtool.model.contract.contract import CONTRACT, Contract, MemoryBinding
from sidtool.model.contract.stage_record import (
    AdoptParams,
    ExtendParams,
    ModelReference,
    StageRecord,
    TrainParams,
)
from sidtool.model.prompt.prompts import HistoryPrompt, LabelPrompt, ListPrompt, TextPrompt
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import AlignChange, BuildChange, ItemsChange, Version
from sidtool.tokenizer.encoder.lexical import LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import small_bundle
from tests.data.split.lines import of_lines, write_lines
from tests.data.tables.files import Table, write_table

GOLDEN = Path(__file__).parent
BUNDLE = GOLDEN / "bundle.zarr.zip"
BUNDLE_2 = GOLDEN / "bundle-2.zarr.zip"
BUNDLE_LEXICAL = GOLDEN / "bundle-lexical.zarr.zip"
SPLIT = GOLDEN / "split"
SPLIT_2 = GOLDEN / "split-2"
SPLIT_3 = GOLDEN / "split-3"
SPLIT_4 = GOLDEN / "split-4"
SPLIT_PARTS = GOLDEN / "split-parts"
EXAMPLES = GOLDEN / "examples" / "train.jsonl"
MODEL = GOLDEN / "model"
MODEL_2 = GOLDEN / "model-2"
MODEL_3 = GOLDEN / "model-3"
MODEL_LISTS = GOLDEN / "model-lists"
MODEL_LABELS = GOLDEN / "model-labels"
MODEL_RERANKER = GOLDEN / "model-reranker"
MEMORY = GOLDEN / "memory.zarr.zip"

ITEMS = {
    "i0": ((2, 1, 4), "film 0"),
    "i1": ((0, 0, 0), ""),
    "i2": ((2, 1, 4), "film 2, of i0's SID"),
    "ü/é 漢字": ((3, 4, 5), "Amélie — <s_a_1>"),
    "i4": ((1, 3, 2), "retired film"),
}
EVENTS = (
    ("u1", ("i0", "i1", "i2", "ü/é 漢字")),
    ("ü2", ("ü/é 漢字", "i1", "i0", "i2")),
    ("u3", ("i2", "i0", "i1")),
)
"""User, and items in order of time."""

SPLIT_REFERENCE = SplitReference("temporal", "12" * 32, Cuts(3.0, 5.5))


def golden_bundle() -> Bundle:
    """A bundle with letters of every width, a shared SID, a retired item, an empty title, an
    encoder, and a lineage with every kind of change."""
    ids = list(ITEMS)
    codes, titles = zip(*ITEMS.values(), strict=True)
    retired = np.array([item == "i4" for item in ids])
    items = ItemMap.of(SidSpace((4, 5, 6)), ids, np.array(codes, dtype=np.uint16), titles, retired)
    small = small_bundle(dim=3).codebook
    assert small is not None
    networks = {
        "in_0_weight": np.eye(3, dtype=np.float32) * 2,
        "in_0_bias": np.zeros(3, dtype=np.float32),
    }
    encoder = {
        "model": "some/where",
        "revision": "main",
        "weights": {"model.bin": "0" * 64},
        "dim": 3,
        "probes": [],
    }
    params = QuantizerParams(dim=3, fit={"seed": 0, "share": 1e-05})
    aligned = AlignChange("ab" * 32, 4, (4, 3, 2), (4, 4, 3))
    return Bundle.of(
        items,
        Codebook("rq-kmeans", small.levels, networks, params),
        "allow",
        name="golden",
        version="2.1",
        parent="22" * 32,
        lineage=(
            Version("1.0", "11" * 32, "golden", "2026-01-02T03:04:05+00:00", BuildChange(4)),
            Version("2.0", "22" * 32, "golden", "2026-02-03T04:05:06+00:00", aligned),
        ),
        change=ItemsChange(added=1, restored=0, retitled=2, retired=1, catalog="cd" * 32),
        compatible_with=("33" * 32,),
        recipe={"encoder": encoder, "text_template": "{title} — {id}"},
        source={"catalog": "44" * 32, "items": 4, "split": golden_split().reference.to_json()},
        libraries={"sidtool": "0.2.0"},
        created="2026-03-04T05:06:07+00:00",
    )


def golden_bundle_2() -> Bundle:
    """A bundle whose codebook scales vectors and residuals and counts from 1: format 2."""
    sizes = (4, 5, 6)
    codes = np.array([[1, 1, 5], [3, 4, 1], [2, 1, 3]], dtype=np.uint16)
    small = small_bundle(dim=3).codebook
    assert small is not None
    scaling = {
        "scale": np.array([2, 1, 0.5], dtype=np.float32),
        "shift": np.array([0, -1, 1], dtype=np.float32),
    }
    params = QuantizerParams(dim=3, normalize=True, normalize_residuals=True, first_code=1)
    return Bundle.of(
        ItemMap.of(SidSpace(sizes), ["i0", "i1", "i2"], codes, ["a", "b", ""]),
        Codebook("rq-kmeans", small.levels, scaling, params),
        "reassign",
        name="golden-2",
        recipe={"encoder": {"vectors": "given", "dim": 3}, "text_template": None},
        source={"system": "grid", "encoded": {"items": 3, "equal": [3, 3, 2]}},
        created="2026-11-27T04:05:06+00:00",
    )


def golden_bundle_lexical() -> Bundle:
    """A bundle that stores a lexical encoder of five titles, which readers without one ignore:
    format 1."""
    titles = [
        "Red nail polish",
        "red lipstick, 3.5 g",
        "Crème 漢字",
        "漢字かな",
        "ＮＡＩＬ file №5",
    ]
    lexical = LexicalEncoder.fit(titles)
    ids = [f"i{row}" for row in range(len(titles))]
    vectors = lexical.vectors(titles)
    levels = (vectors[:3], vectors[2:] * np.float32(0.5))
    codes = np.array([[0, 0], [1, 2], [2, 0], [2, 1], [0, 1]], dtype=np.uint16)
    return Bundle.of(
        ItemMap.of(SidSpace((3, 3)), ids, codes, titles),
        Codebook("rq-kmeans", levels, {}, QuantizerParams()),
        "reassign",
        name="golden-lexical",
        lexical=lexical,
        recipe={"encoder": dict(lexical.record), "text_template": "{title}"},
        created="2026-11-29T04:05:06+00:00",
    )


def golden_split() -> Split:
    """A leave-one-out split of `EVENTS`."""
    with TemporaryDirectory() as folder:
        lines = ["user_id,item_id,timestamp"]
        for user, items in EVENTS:
            lines += [f"{user},{item},{time}" for time, item in enumerate(items, 100)]
        events = Path(folder) / "events.csv"
        events.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return of_lines(make_split(events))


def golden_split_2() -> Split:
    """The events of `EVENTS` with a feedback, a context, times, users, and a condition of targets:
    format 2."""
    with TemporaryDirectory() as folder:
        lines = ["user_id,item_id,timestamp,rating,device"]
        for user, items in EVENTS:
            for at, item in enumerate(items):
                lines.append(
                    f"{user},{item},{880_000_000 + 60 * at},{5 - at % 3},{'tv' * (at % 2)}"
                )
        events = Path(folder) / "events.csv"
        events.write_text("\n".join(lines) + "\n", encoding="utf-8")
        users = Path(folder) / "users.csv"
        users.write_text("user_id,age,city\nu1,24,Ulm\nü2,,München\n", encoding="utf-8")
        fields = FieldOptions(
            (FieldName("rating"),), (FieldName("device"),), (), users, True, ("rating>=3",)
        )
        return of_lines(make_split(events, SplitOptions(fields=fields)))


def golden_split_3() -> Split:
    """Users with one, three and four sessions of up to two events, held out by session, with a
    feedback, a context and times: format 3."""
    with TemporaryDirectory() as folder:
        lines = ["user_id,item_id,timestamp,rating,device"]
        for user, items in EVENTS:
            n_sessions = {"u1": 3, "ü2": 4, "u3": 1}[user]
            for at, item in enumerate((*items, *items[::-1])[: n_sessions * 2]):
                time = 880_000_000 + 3600 * (at // 2) + 60 * at
                lines.append(f"{user},{item},{time},{5 - at % 3},{'tv' * (at % 2)}")
        events = Path(folder) / "events.csv"
        events.write_text("\n".join(lines) + "\n", encoding="utf-8")
        fields = FieldOptions(
            (FieldName("rating"),), (FieldName("device"),), times=True, target=("rating>=4",)
        )
        rule = SessionRule(gap=1800.0)
        options = SplitOptions("last-session", fields=fields, sessions=rule)
        return of_lines(make_split(events, options))


def write_split_in_parts() -> None:
    """The events of seven users, two of which have one, in files of three parts."""
    table: Table = {"user_id": [], "item_id": [], "timestamp": []}
    for number in range(7):
        for moment in range(1 if number < 2 else 4):
            table["user_id"].append(f"ü{number}")
            table["item_id"].append(f"i{number * moment % 5}")
            table["timestamp"].append(str(moment))
    with TemporaryDirectory() as name:
        events = write_table(Path(name) / "events.csv", table)
        run = PartOptions(parts=3, force=True)
        split_in_parts(str(events), SPLIT_PARTS, run=run)


def golden_split_4() -> Split:
    """The split of `golden_split_3` in columns: format 4."""
    split = golden_split_3()
    return replace(split, origin=replace(split.origin, format=4))


def golden_items() -> Items:
    """The catalog of the active items."""
    ids = tuple(item for item in ITEMS if item != "i4")
    titles = tuple(ITEMS[item][1] for item in ids)
    return make_items(ids, titles, titles, fields={}, template="{title}")


def golden_contract() -> Contract:
    """A contract with two stages and both prompts."""
    bundle = golden_bundle()
    trained = TrainParams(
        examples="ab" * 32,
        split=SPLIT_REFERENCE,
        task_weights={"sequence": 1.0, "query-to-sid": 0.5},
        example_format="plain",
        options={"stage": "full", "softmax_over": "trie"},
        sft_fields={"learning_rate": 0.001},
        run="cd" * 32,
        teachers=(ModelReference("teachers/one", {"model.safetensors": "ee" * 32}),),
    )
    return Contract(
        identity=bundle.identity,
        space=bundle.space,
        token_start=471,
        base_model="org/model",
        base_revision="0123abc",
        base_weights={"model.safetensors": "ff" * 32},
        stages=(StageRecord("extend", ExtendParams("codebook", 3)), StageRecord("full", trained)),
        history_prompt=HistoryPrompt("sequence", "Bought: {history} →", 20, 256, separator=" "),
        text_prompt=TextPrompt("query-to-sid", "Wanted: {item} →", 64, format="chat"),
        normalize="trie",
    )


def golden_contract_2() -> Contract:
    """The same contract with a prompt that shows fields: format 2."""
    prompt = HistoryPrompt(
        "next-item",
        "{user.age}, {context.device}, {gap}: {history} →",
        20,
        256,
        item="{sid} {event.rating}/{ago};",
    )
    return replace(golden_contract(), history_prompt=prompt)


def golden_contract_3() -> Contract:
    """A contract of an adopted model, whose SID tokens are no block and some of which are missing:
    format 3."""
    bundle = golden_bundle()
    ids = list(range(900, 900 + len(bundle.space.tokens)))
    ids[1] = -1
    ids[2], ids[3] = ids[3], ids[2]
    tokens = SidTokens.of_ids(bundle.space, ids)
    return replace(
        golden_contract(),
        token_start=tokens.start,
        token_table=tokens.table,
        stages=(StageRecord("adopt", AdoptParams("minionerec", 1, 0)),),
    )


def golden_contract_with_lists() -> Contract:
    """The same contract with a prompt of lists, which readers without lists ignore: format 1."""
    prompt = ListPrompt("list", "Bought: {history}. Next 5:", 20, 250, list_length=5)
    return replace(golden_contract(), list_prompt=prompt)


def golden_contract_with_labels() -> Contract:
    """The same contract with a prompt that predicts labels, which readers without them ignore:
    format 1."""
    prompt = LabelPrompt(
        "predict-rating",
        "Rated: {history}. And the last one?",
        20,
        250,
        item="{sid} {event.rating};",
        feedback="rating",
        labels=("1", "2", "10"),
        close="</s>",
    )
    return replace(golden_contract(), label_prompts=(prompt,))


def golden_contract_with_reranker() -> Contract:
    """The same contract with a memory and a re-ranker, which readers without re-rankers ignore:
    format 1."""
    manifest = golden_memory().manifest
    network = Network(
        *(
            (np.arange(np.prod(shape), dtype=np.float32) % 17 - 8).reshape(shape) / 64
            for shape in SHAPES
        )
    )
    reranker = Reranker.of(
        [index / 4 for index in range(N_FEATURES)],
        [1 + index / 8 for index in range(N_FEATURES)],
        [network, network._replace(linear=-network.linear)],
        manifest,
        scale=0.5,
        exclude_seen=True,
        new_item_bonus=0.25,
    )
    binding = MemoryBinding(
        manifest.digest, 0.25, 1.5, {"users": 7.0}, split=manifest.split, reranker=reranker
    )
    return replace(golden_contract(), memory=binding)


def golden_memory() -> Memory:
    """A memory of all `EVENTS`, by the items of the golden bundle."""
    settings = KnnSettings(
        distance=0.3, reverse=0.5, normalization=0.25, shrinkage=1.0, neighbors=2, recency=0.25
    )
    train = tuple(UserSequence(user, items, tuple(range(len(items)))) for user, items in EVENTS)
    bundle = golden_bundle()  # as if its codebook was built without events
    bundle = Bundle(replace(bundle.manifest, source={}), bundle.arrays)
    return build_memory(of_lines(Split("leave-one-out", train, (), ())), bundle, settings)


def write_golden_files() -> None:
    """Write one file or folder of each format."""
    golden_bundle().save(BUNDLE, force=True)
    golden_bundle_2().save(BUNDLE_2, force=True)
    golden_bundle_lexical().save(BUNDLE_LEXICAL, force=True)
    split = golden_split()
    write_lines(split, SPLIT)
    write_lines(golden_split_2(), SPLIT_2)
    write_lines(golden_split_3(), SPLIT_3)
    write_split(golden_split_4(), SPLIT_4, force=True)
    write_split_in_parts()
    options = SftOptions({"sequence": 1.0, "title-to-sid": 1.0}, history_length=3)
    EXAMPLES.parent.mkdir(exist_ok=True)
    make_sft(golden_bundle(), golden_items(), split, EXAMPLES, options, force=True)
    golden_memory().save(MEMORY, force=True)
    for folder, contract in (
        (MODEL, golden_contract()),
        (MODEL_2, golden_contract_2()),
        (MODEL_3, golden_contract_3()),
        (MODEL_LISTS, golden_contract_with_lists()),
        (MODEL_LABELS, golden_contract_with_labels()),
        (MODEL_RERANKER, golden_contract_with_reranker()),
    ):
        folder.mkdir(exist_ok=True)
        text = json.dumps(contract.to_json(), indent=1, ensure_ascii=False) + "\n"
        (folder / CONTRACT).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_golden_files()
