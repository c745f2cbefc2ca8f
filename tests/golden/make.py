"""What the golden files hold. They are never written again: a new format gets new files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.record import Cuts, SessionRule, SplitReference
from sidtool.data.split.split import Split
from sidtool.data.split.values import UserSequence
from sidtool.memory.build import build_memory
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.memory import Memory
from sidtool.memory.mixture.reranker import N_FEATURES, Network, Reranker, network_shapes
from sidtool.model.contract.contract import Contract, MemoryBinding
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
from tests.data.split.lines import of_lines

BUNDLE = Path(__file__).with_name("bundle.zarr.zip")
EVENTS = (
    ("u1", ("i0", "i1", "i2", "ü/é 漢字")),
    ("ü2", ("ü/é 漢字", "i1", "i0", "i2")),
    ("u3", ("i2", "i0", "i1")),
)
"""User, and items in order of time."""

SPLIT_REFERENCE = SplitReference("temporal", "12" * 32, Cuts(3.0, 5.5))


def split_of(lines: Sequence[str], options: SplitOptions, users: Sequence[str] = ()) -> Split:
    """A split of the lines of a file of events, and of one of users."""
    with TemporaryDirectory() as folder:
        events, people = Path(folder) / "events.csv", Path(folder) / "users.csv"
        events.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if users:
            people.write_text("\n".join(users) + "\n", encoding="utf-8")
            options = replace(options, fields=replace(options.fields, users=people))
        return of_lines(make_split(events, options))


def golden_split() -> Split:
    """A leave-one-out split of `EVENTS`."""
    lines = ["user_id,item_id,timestamp"]
    for user, items in EVENTS:
        lines += [f"{user},{item},{time}" for time, item in enumerate(items, 100)]
    return split_of(lines, SplitOptions())


def golden_split_2() -> Split:
    """The events of `EVENTS` with a feedback, a context, times, users, and a condition of targets:
    format 2."""
    lines = ["user_id,item_id,timestamp,rating,device"]
    for user, items in EVENTS:
        for at, item in enumerate(items):
            lines.append(f"{user},{item},{880_000_000 + 60 * at},{5 - at % 3},{'tv' * (at % 2)}")
    users = ["user_id,age,city", "u1,24,Ulm", "ü2,,München"]
    fields = FieldOptions(
        (FieldName("rating"),), (FieldName("device"),), times=True, target=("rating>=3",)
    )
    return split_of(lines, SplitOptions(fields=fields), users)


def golden_split_3() -> Split:
    """Users with one, three and four sessions of up to two events, held out by session, with a
    feedback, a context and times: format 3."""
    lines = ["user_id,item_id,timestamp,rating,device"]
    for user, items in EVENTS:
        n_sessions = {"u1": 3, "ü2": 4, "u3": 1}[user]
        for at, item in enumerate((*items, *items[::-1])[: n_sessions * 2]):
            time = 880_000_000 + 3600 * (at // 2) + 60 * at
            lines.append(f"{user},{item},{time},{5 - at % 3},{'tv' * (at % 2)}")
    fields = FieldOptions(
        (FieldName("rating"),), (FieldName("device"),), times=True, target=("rating>=4",)
    )
    sessions = SessionRule(gap=1800.0)
    return split_of(lines, SplitOptions("last-session", fields=fields, sessions=sessions))


def golden_split_4() -> Split:
    """The split of `golden_split_3` in columns: format 4."""
    split = golden_split_3()
    return replace(split, origin=replace(split.origin, format=4))


def golden_contract() -> Contract:
    """A contract with two stages and both prompts."""
    bundle = Bundle.open(BUNDLE)
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
    bundle = Bundle.open(BUNDLE)
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
            for shape in network_shapes(N_FEATURES)
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
    bundle = Bundle.open(BUNDLE)  # as if its codebook was built without events
    bundle = Bundle(replace(bundle.manifest, source={}), bundle.arrays)
    return build_memory(of_lines(Split("leave-one-out", train, (), ())), bundle, settings)
