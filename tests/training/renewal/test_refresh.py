import shutil
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    RefusedError,
    SidtoolWarning,
    UsageError,
)
from sidtool.base.output import locked
from sidtool.data import Items, Vectors
from sidtool.data.split.extension import extended
from sidtool.data.split.split import Split, SplitOrigin
from sidtool.data.split.values import UserSequence
from sidtool.examples import SftOptions, WeightOptions, make_sft
from sidtool.memory import ItemContent, KnnSettings, build_memory, verify_memory
from sidtool.model import bind_memory, load_model_folder
from sidtool.model.contract import (
    MEMORY_COPY,
    MemoryBinding,
    ModelReference,
    RebindParams,
    StageRecord,
    read_contract,
    write_contract,
)
from sidtool.model.prompt import Templates
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import StageSettings, TrainOptions, plan_stages, train
from sidtool.training.renewal import RefreshOptions, training_settings
from sidtool.training.renewal.last_training import (
    last_sft_options,
    last_training,
    refuse_other_template,
)
from sidtool.training.renewal.refresh import plan_refresh, refresh
from tests.bundles import small_bundle
from tests.memory.rerankers import random_reranker
from tests.model.contract.cases import TRAINED
from tests.training.runs import FAST, Make, same, valid_of, weights
from tests.training_fixtures import N_ITEMS, make_split, rated_split

refresh_module = import_module("sidtool.training.renewal.refresh")
"""The door of the room gives the function under this name."""
SMALL = {"eval_users": 20, "eval_num_beams": 10}
QUICK = RefreshOptions(share=0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, models: Make, examples: Make) -> Path:
    made = examples(sequence=1.0)
    out = tmp_path_factory.mktemp("trained") / "model"
    settings = {**FAST, "num_train_epochs": 6, "learning_rate": 1e-2, **SMALL}
    settings |= {"save_strategy": "epoch"}
    train(models("gpt2"), made, out, valid=valid_of(made), **settings)
    return out


@pytest.fixture
def remember(tmp_path: Path, trained: Path, split: Split, bundle: Bundle) -> Make:
    """Writes a copy of a model with a memory, built from the split with these arguments."""

    def write(folder: Path = trained, reranker: Any = None, **build_options: Any) -> Path:
        memory = build_memory(split, bundle, **build_options)
        metrics = {"both ndcg@10": 0.1, "users": 20.0}
        binding = MemoryBinding(memory.digest, 0.4, 3.0, metrics, reranker=reranker)
        bind_memory(folder, memory, binding, tmp_path / "model")
        return tmp_path / "model"

    return write


@pytest.fixture
def later(split: Split) -> Split:
    """The events of the split and those of new users."""
    new = make_split(users=20, seed=1)
    others = [
        tuple(replace(entry, user=f"new-{entry.user}") for entry in part)
        for part in (new.train, new.valid, new.test)
    ]
    parts = zip((split.train, split.valid, split.test), others, strict=True)
    grown = Split("leave-one-out", *((*old, *more) for old, more in parts))
    return extended(grown, split)


@pytest.fixture
def retrained() -> Bundle:
    """Another codebook, and five more items."""
    return small_bundle(N_ITEMS + 5, seed=1)


def test_a_refreshed_model_learns_the_new_codes_in_a_fraction_of_the_steps(
    tmp_path: Path, trained: Path, retrained: Bundle, later: Split
) -> None:
    out = tmp_path / "refreshed"
    before = read_contract(trained).params
    lines: list[str] = []
    options = RefreshOptions(share=0.5)
    summary = refresh(trained, retrained, out, split=later, options=options, notify=lines.append)
    assert f"starts from {trained} " in lines[0]
    assert (summary.verdict.kind, summary.training.epochs) == ("aligned", pytest.approx(3))
    assert summary.training.best > 0.2  # random: .05
    contract = read_contract(out)
    assert [record.stage for record in contract.stages] == ["extend", "full", "rebind", "full"]
    params = contract.params
    assert (params.split, params.task_weights) == (later.reference, before.task_weights)
    assert len(load_model_folder(out).bundle.items) == N_ITEMS + 5
    assert not list(tmp_path.glob("refreshed?*"))


def test_the_memory_is_built_again(
    tmp_path: Path, remember: Make, retrained: Bundle, bundle: Bundle, later: Split
) -> None:
    """With its settings, its weight and its power; without a split it is left out."""
    settings = KnnSettings(recency=0.5)
    model = remember(settings=settings, content=ItemContent.of(bundle))
    out = tmp_path / "refreshed"
    summary = refresh(model, retrained, out, split=later, options=RefreshOptions(share=0.05))
    assert summary.to_json()["model"] == str(out)
    loaded = load_model_folder(out)
    assert (loaded.memory.weight, loaded.memory.power) == (0.4, 3.0)
    assert loaded.contract.memory.validation == {}  # they were those of the earlier model
    content = ItemContent.of(loaded.bundle)
    expected = build_memory(later, loaded.bundle, settings, content=content)
    assert loaded.memory.memory.digest == expected.digest
    assert verify_memory(out / MEMORY_COPY) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "refreshed"]
    lines: list[str] = []
    refresh(model, retrained, tmp_path / "aligned", notify=lines.append)
    assert read_contract(tmp_path / "aligned").memory is None
    assert "memory is left out" in lines[0]


@pytest.mark.slow
def test_a_re_ranker_is_fitted_to_the_new_model_or_left_out(
    tmp_path: Path,
    models: Make,
    examples: Make,
    remember: Make,
    split: Split,
    bundle: Bundle,
    later: Split,
) -> None:
    trained, made = tmp_path / "trained", examples(sequence=1.0)
    settings = {**FAST, **SMALL, "softmax_over": "trie", "save_strategy": "epoch"}
    train(models("gpt2"), made, trained, valid=valid_of(made), **settings)
    model = remember(trained, random_reranker(build_memory(split, bundle).manifest))
    refresh(model, bundle, tmp_path / "out", split=later, options=RefreshOptions(share=1.0))
    renewed = read_contract(tmp_path / "out").memory
    assert (renewed.split, renewed.validation["users"]) == (later.reference, len(later.valid))
    assert renewed.reranker is None  # too few users


def test_a_memory_by_vectors_needs_them(
    tmp_path: Path, trained: Path, remember: Make, retrained: Bundle, bundle: Bundle, later: Split
) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(bundle.items), 8)).astype(np.float32)
    model = remember(content=ItemContent.of(bundle, vectors))
    with pytest.raises(UsageError, match="vectors, and was built for another bundle") as caught:
        plan_refresh(model, retrained, tmp_path / "out", split=later, options=QUICK)
    assert caught.value.shell_hint.startswith("--items CATALOG")
    with pytest.raises(UsageError, match="has no memory"):
        refresh(trained, retrained, tmp_path / "out", split=later, embeddings=[tmp_path / "v.npy"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_memory_by_vectors_is_built_again_from_the_texts_of_the_catalog(
    tmp_path: Path,
    remember: Make,
    retrained: Bundle,
    bundle: Bundle,
    later: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(len(bundle.items), 8)).astype(np.float32)
    model = remember(content=ItemContent.of(bundle, vectors))
    items = tmp_path / "items.csv"
    rows = [f"{item},Item {item},A thing,b,c" for item in retrained.items.ids]
    items.write_text("\n".join(["item_id,title,description,brand,category", *rows]))
    with pytest.raises(RefusedError, match="was built from given vectors"):
        plan_refresh(model, retrained, tmp_path / "out", split=later, items=items, options=QUICK)
    texts = generator.normal(size=(len(retrained.items), 8)).astype(np.float32)

    def embedded(bundle: Bundle, catalog: Path | None, **options: object) -> Vectors:
        assert catalog == items
        return texts

    monkeypatch.setattr(refresh_module, "check_item_vectors", embedded)
    monkeypatch.setattr(refresh_module, "item_vectors", embedded)
    refresh(model, retrained, tmp_path / "out", split=later, items=items, options=QUICK)
    loaded = load_model_folder(tmp_path / "out")
    content = ItemContent.of(loaded.bundle, texts)
    expected = build_memory(later, loaded.bundle, content=content)
    assert loaded.memory.memory.digest == expected.digest


@pytest.fixture
def interrupted(
    tmp_path: Path, remember: Make, retrained: Bundle, later: Split, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A model with a memory, whose QUICK refresh to "out" was killed when it had trained."""
    model = remember()

    def fail(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(refresh_module, "bind_memory", fail)
        with pytest.raises(KeyboardInterrupt):
            refresh(model, retrained, tmp_path / "out", split=later, options=QUICK)
    return model


@pytest.mark.slow
def test_a_refresh_with_a_memory_resumes_after_training(
    tmp_path: Path, interrupted: Path, retrained: Bundle, later: Split
) -> None:
    assert not (tmp_path / "out").exists()
    before = weights(tmp_path / "out.trained.partial" / "model")
    refresh(interrupted, retrained, tmp_path / "out", split=later, options=QUICK)
    assert same(weights(tmp_path / "out"), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.slow
def test_what_a_killed_refresh_left_is_replaced_by_force(
    tmp_path: Path, interrupted: Path, retrained: Bundle, later: Split
) -> None:
    out = tmp_path / "out"
    other = replace(QUICK, learning_rate=1e-4)
    plan_refresh(interrupted, retrained, out, split=later, options=QUICK)
    with pytest.raises(UsageError, match="exists already"):
        plan_refresh(interrupted, retrained, out, split=later, options=other)
    refresh(interrupted, retrained, out, split=later, options=other, force=True)
    assert read_contract(out).params.sft_fields["learning_rate"] == 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.slow
def test_a_line_says_that_teachers_are_not_used(
    tmp_path: Path, trained: Path, retrained: Bundle, bundle: Bundle, later: Split
) -> None:
    contract = read_contract(trained)
    teachers = (ModelReference("teacher", {"model.safetensors": "0" * 64}),)
    stage = StageRecord("full", replace(contract.params, teachers=teachers))
    contract = replace(contract, stages=(*contract.stages[:-1], stage))
    shutil.copytree(trained, tmp_path / "student")
    write_contract(tmp_path / "student", contract, bundle)
    line = "the model was distilled: refresh trains it without its teachers"
    lines: list[str] = []
    arguments: Any = {"split": later, "options": QUICK, "notify": lines.append}
    refresh(tmp_path / "student", retrained, tmp_path / "out", **arguments)
    assert line in lines
    assert read_contract(tmp_path / "out").params.teachers == ()


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"items": "items.jsonl"}, "--items"),
        ({"embeddings": ["vectors.npy"]}, "--embeddings"),
        ({"options": RefreshOptions(share=0.5)}, "--share"),
        ({"options": RefreshOptions(learning_rate=1e-3)}, "--learning-rate"),
    ],
)
def test_what_only_training_needs_is_refused_without_a_split(
    tmp_path: Path, trained: Path, retrained: Bundle, given: Any, option: str
) -> None:
    with pytest.raises(UsageError, match=f"{option} has no effect without a split"):
        refresh(trained, retrained, tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_without_a_split_only_bundle_and_rows_change(
    tmp_path: Path, trained: Path, retrained: Bundle
) -> None:
    summary = refresh(trained, retrained, tmp_path / "aligned")
    assert summary.training is None
    before, after = weights(trained), weights(tmp_path / "aligned")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["transformer.wte.weight"]
    start = read_contract(trained).token_start
    assert torch.equal(before[changed[0]][:start], after[changed[0]][:start])


def test_a_larger_bundle_keeps_every_row(tmp_path: Path, trained: Path, bundle: Bundle) -> None:
    assert refresh(trained, bundle, tmp_path / "same").verdict.kind == "same"
    assert same(weights(trained), weights(tmp_path / "same"))


def test_without_validation_users_the_training_runs_to_its_end(
    tmp_path: Path, trained: Path, remember: Make, split: Split, bundle: Bundle, later: Split
) -> None:
    model = remember(reranker=random_reranker(build_memory(split, bundle).manifest))
    # new events may be ahead of the catalog
    unknown = UserSequence("new", ("unknown",) * 500, tuple(range(500)))
    ahead = replace(later, train=(*later.train, unknown), valid=())
    with pytest.warns(SidtoolWarning, match="events are of items that the bundle lacks"):
        summary = refresh(model, bundle, tmp_path / "out", split=ahead, options=QUICK)
    assert summary.training.metric is None
    memory = read_contract(tmp_path / "out").memory
    assert (memory.weight, memory.power, memory.reranker) == (0.4, 3.0, None)
    make_sft(bundle, bundle.catalog, replace(later, valid=()), tmp_path / "train.jsonl")
    stages = [StageSettings(TrainOptions(), {})]
    (run,) = plan_stages(trained, tmp_path / "train.jsonl", tmp_path / "next", stages)
    assert run.valid is None


def test_a_split_that_does_not_extend_the_models_is_refused(
    tmp_path: Path, trained: Path, retrained: Bundle, later: Split
) -> None:
    unrelated = replace(later, origin=replace(later.origin, extends=()))
    with pytest.raises(CompatibilityError, match="may have learned"):
        refresh(trained, retrained, tmp_path / "out", split=unrelated)
    assert not list(tmp_path.iterdir())


CHOSEN = SftOptions(
    {"sequence": 2.0, "next-item": 1.0},
    max_length=200,
    history_length=6,
    max_tokens=6000,
    templates={"sequence": Templates(("{user.age}:{history}",), "", ("{sid}{event.rating};",))},
)
"""Options that differ from what make-sft would choose."""
WEIGHTED = WeightOptions("exp(rating/2)", clip=7.0)


@pytest.fixture(scope="module")
def weighted(
    tmp_path_factory: pytest.TempPathFactory,
    models: Make,
    bundle: Bundle,
    catalog: Items,
    split: Split,
) -> Path:
    """A model trained on weighted examples that show fields."""
    folder = tmp_path_factory.mktemp("weighted")
    made = folder / "train.jsonl"
    shop = (bundle, catalog, rated_split(split))
    make_sft(*shop, made, CHOSEN, model=models("gpt2"), weights=WEIGHTED)
    train(models("gpt2"), made, folder / "model", **FAST, **SMALL)
    return folder / "model"


@pytest.mark.slow
def test_a_model_is_refreshed_on_examples_as_those_it_was_trained_on(
    tmp_path: Path, weighted: Path, bundle: Bundle, catalog: Items, later: Split
) -> None:
    made, trained_on = tmp_path / "made" / "train.jsonl", rated_split(later)
    lineage = make_sft(bundle, catalog, trained_on, made, CHOSEN, model=weighted, weights=WEIGHTED)
    out = tmp_path / "refreshed"
    refresh(weighted, bundle, out, split=trained_on)
    before, after = read_contract(weighted), read_contract(out)
    params = after.params
    assert params.examples == lineage.files["train.jsonl"]
    assert after.history_prompt == before.history_prompt
    assert after.history_prompt.shows_fields

    # and once more: what refresh trained is recorded as what train trained
    again = tmp_path / "again"
    refresh(out, bundle, again, split=trained_on)
    assert read_contract(again).params == replace(params, run=ANY, best=ANY)


def test_label_prediction_and_lists_need_no_catalog(
    tmp_path: Path, weighted: Path, bundle: Bundle, later: Split
) -> None:
    shutil.copytree(weighted, tmp_path / "model")
    contract = read_contract(weighted)
    stage = StageRecord(
        "full", replace(contract.params, task_weights={"predict-rating": 1.0, "list": 1.0})
    )
    write_contract(tmp_path / "model", contract.with_stage(stage), bundle)
    out = tmp_path / "out"
    plan = plan_refresh(tmp_path / "model", bundle, out, split=rated_split(later), options=QUICK)
    assert plan.last.task_weights == {"predict-rating": 1.0, "list": 1.0}
    # a contract before 0.3 has no length but that of the prompt
    assert last_sft_options(contract, replace(plan.last, sft=None), 0).history_length == 6


def test_a_split_without_the_fields_is_refused(
    tmp_path: Path, weighted: Path, bundle: Bundle, split: Split
) -> None:
    rated = rated_split(split)
    for lacking, message in (
        ({"feedback": {}}, "the split has no feedback 'rating'"),
        ({"user": {}}, r"\{user.age\} is no field of the split"),
    ):
        origin = SplitOrigin(fields=replace(rated.fields, **lacking))
        with pytest.raises(UsageError, match=message):
            refresh(weighted, bundle, tmp_path / "out", split=replace(rated, origin=origin))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sft", "changes", "option"),
    [
        (None, {}, "--weight-clip"),
        (None, {"weights": None}, "--template"),
        ({"hidden_items": 3}, {}, "--hide-text-of"),
        ({"general": True}, {}, "--general"),
        ({}, {"task_weights": {"query-to-sid": 1.0}}, "--queries"),
    ],
)
def test_what_a_contract_does_not_record_is_refused(
    tmp_path: Path,
    weighted: Path,
    bundle: Bundle,
    split: Split,
    sft: Any,
    changes: Any,
    option: str,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(weighted, model)
    contract = read_contract(model)
    recorded = None if sft is None else replace(contract.params.sft, **sft)
    params = replace(contract.params, sft=recorded, **changes)
    stages = (*contract.stages[:-1], StageRecord("full", params))
    write_contract(model, replace(contract, stages=stages), bundle)
    with pytest.raises(UsageError, match=f"it does not record {option}") as error:
        refresh(model, bundle, tmp_path / "out", split=rated_split(split))
    assert error.value.shell_hint == f"sidtool make-sft {option}, then sidtool train"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_template_than_the_models_is_refused(
    tmp_path: Path, trained: Path, bundle: Bundle, later: Split
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    contract = read_contract(model)
    prompt = replace(contract.history_prompt, template="Bought: {history}")
    write_contract(model, replace(contract, history_prompt=prompt), bundle)
    message = r"is 'Bought: \{history\}', a template that refresh has"
    with pytest.raises(UsageError, match=message):
        refresh(model, bundle, tmp_path / "out", split=later)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    made, labels = tmp_path / "train.jsonl", SftOptions({"predict-rating": 1.0})
    (label,) = make_sft(bundle, bundle.catalog, rated_split(later), made, labels).label_prompts
    refuse_other_template(replace(contract, label_prompts=(label,)), made, model)
    contract = replace(contract, label_prompts=(replace(label, template="Bought: {history}"),))
    with pytest.raises(UsageError, match=message):
        refuse_other_template(contract, made, model)


def test_other_levels_and_untrained_models_are_refused(
    tmp_path: Path, trained: Path, models: Make, later: Split, bundle: Bundle
) -> None:
    with pytest.raises(RefusedError, match="levels"):
        refresh(trained, small_bundle(N_ITEMS, (5, 5, 6)), tmp_path / "out", split=later)
    with pytest.raises(CompatibilityError, match="was not trained by sidtool"):
        refresh(models("gpt2"), bundle, tmp_path / "out", split=later)
    with pytest.raises(UsageError, match="share must be more than 0"):
        RefreshOptions(share=0)
    assert not list(tmp_path.iterdir())


def test_tasks_that_show_text_need_a_catalog(
    tmp_path: Path, models: Make, examples: Make, bundle: Bundle, split: Split
) -> None:
    made = examples(sequence=1.0, title_to_sid=1.0)
    train(models("gpt2"), made, tmp_path / "model", max_steps=2)
    with pytest.raises(UsageError, match="title-to-sid shows text") as error:
        refresh(tmp_path / "model", bundle, tmp_path / "out", split=split)
    assert error.value.shell_hint == "--items CATALOG"
    model, items = tmp_path / "model", tmp_path / "missing.csv"
    with pytest.raises(DataError, match="does not exist"):
        plan_refresh(model, bundle, tmp_path / "out", split=split, items=items, options=QUICK)
    # the columns are those that its examples showed
    contract = read_contract(model)
    shown = replace(contract.params.sft, columns=("brand",))
    tasks = {"item-text": 1.0}
    stage = StageRecord("full", replace(contract.params, sft=shown, task_weights=tasks))
    write_contract(model, contract.with_stage(stage), bundle)
    items.write_text("item_id,title,brand,color\n" + "i0,lamp,Acme,red\n")
    plan = plan_refresh(model, bundle, tmp_path / "out", split=split, items=items, options=QUICK)
    assert list(plan.catalog.fields) == ["brand"]


def test_an_interrupted_refresh_resumes_to_the_same_weights(
    tmp_path: Path, trained: Path, retrained: Bundle, later: Split
) -> None:
    options = RefreshOptions(share=0.4)
    refresh(trained, retrained, tmp_path / "whole", split=later, options=options)

    def stop_after_two_epochs(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    out = tmp_path / "resumed"
    other_output = tmp_path / "resumed-refresh"
    other_output.mkdir()
    arguments = {"split": later, "options": options}
    with locked(out), pytest.raises(UsageError, match="is being written"):
        refresh(trained, retrained, out, **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed-refresh", "whole"]
    with pytest.raises(KeyboardInterrupt):
        refresh(trained, retrained, out, progress=stop_after_two_epochs, **arguments)
    assert not out.exists()
    plan_refresh(trained, retrained, out, **arguments)
    other = replace(options, share=0.2)
    with pytest.raises(UsageError, match=r"different settings\.num_train_epochs"):
        plan_refresh(trained, retrained, out, split=later, options=other)
    plan_refresh(trained, retrained, out, split=later, options=other, force=True)
    summary = refresh(trained, retrained, out, **arguments)
    assert summary.training.resumed_from is not None
    assert same(weights(tmp_path / "whole"), weights(out))
    # the next refresh is as long
    plan = plan_refresh(out, retrained, tmp_path / "next", **arguments)
    _, fields = training_settings(plan.last, options)
    assert fields["num_train_epochs"] == pytest.approx(0.4 * 6)
    names = ["resumed", "resumed-refresh", "whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_killed_refresh_of_a_token_budget_resumes(
    tmp_path: Path, trained: Path, bundle: Bundle, later: Split
) -> None:
    model = shutil.copytree(trained, tmp_path / "model")
    contract = read_contract(trained)
    params = replace(contract.params, options=contract.params.options | {"token_budget": 20000})
    write_contract(model, contract.with_stage(StageRecord("full", params)), bundle)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refresh(model, bundle, tmp_path / "out", split=later, options=QUICK, progress=stop)
    assert (tmp_path / "out.partial").exists()
    plan_refresh(model, bundle, tmp_path / "out", split=later, options=QUICK)


def test_a_plan_refuses_a_model_of_adapters(tmp_path: Path, trained: Path, bundle: Bundle) -> None:
    shutil.copytree(trained, tmp_path / "model")
    contract = replace(read_contract(trained), base_folder=ModelReference.of(trained))
    write_contract(tmp_path / "model", contract, bundle)
    with pytest.raises(UsageError, match="has adapters"):
        plan_refresh(tmp_path / "model", bundle, tmp_path / "out", options=QUICK)


def test_a_plan_needs_a_rate_for_merged_adapters(
    tmp_path: Path, trained: Path, bundle: Bundle, later: Split
) -> None:
    model = shutil.copytree(trained, tmp_path / "model")
    contract = read_contract(trained)
    options = contract.params.options | {"stage": "lora"}
    stage = StageRecord("lora", replace(contract.params, options=options))
    write_contract(model, contract.with_stage(stage), bundle)
    for force in (False, True):
        with pytest.raises(UsageError, match="learning rate is too large for all weights"):
            plan_refresh(model, bundle, tmp_path / "out", split=later, options=QUICK, force=force)


def test_a_stage_of_adapters_needs_a_rate_for_all_weights() -> None:
    adapters = replace(TRAINED, options={"stage": "lora", "forgotten": 1})
    with pytest.raises(UsageError, match="learning rate is too large for all weights"):
        training_settings(adapters, RefreshOptions())
    options, fields = training_settings(adapters, RefreshOptions(learning_rate=1e-4, seed=7))
    assert (options.stage, fields["learning_rate"], fields["seed"]) == ("full", 1e-4, 7)
    # an earlier version took settings that cannot be set any more
    taken = {"shuffle_dataset": True, "fsdp": True, "fsdp_config": {"fsdp_version": 2}}
    rows = replace(TRAINED, options={"stage": "embeddings"}, sft_fields=taken)
    options, fields = training_settings(rows, RefreshOptions())
    assert options.stage == "embeddings"
    assert fields.keys() == {"num_train_epochs", "seed"}  # and refresh is one process


@pytest.mark.parametrize(
    ("settings", "name", "length"),
    [
        ({"num_train_epochs": 4}, "num_train_epochs", 0.8),
        ({"max_steps": 44}, "max_steps", 9),
        ({"max_steps": 44, "warmup_steps": 20}, "warmup_steps", 4),
        ({"num_train_epochs": 4, "warmup_steps": 0.1}, "warmup_steps", 0.1),
        ({"max_steps": 44, "eval_steps": 11}, "eval_steps", 2),
        ({"max_steps": 44, "eval_steps": 11, "save_steps": 33}, "save_steps", 6),
        ({"num_train_epochs": 4, "eval_steps": 0.1, "save_steps": 0.2}, "save_steps", 0.2),
        ({"token_budget": 1000}, "token_budget", 200),
        ({"token_budget": 1000, "stop_step": 44}, "max_steps", 9),
        ({"num_train_epochs": 4, "stop_step": 44}, "max_steps", 9),
    ],
)
def test_every_refresh_is_as_long(
    trained: Path, settings: dict[str, int], name: str, length: float
) -> None:
    contract = read_contract(trained)
    stage = replace(TRAINED, options=settings, sft_fields=settings)
    lengths = []
    for _ in range(3):
        contract = replace(contract, stages=(*contract.stages, StageRecord("full", stage)))
        last = last_training(contract, trained)
        options, fields = training_settings(last, RefreshOptions(share=0.2))
        stage = replace(TRAINED, options=asdict(options), sft_fields=fields)
        lengths.append({**asdict(options), **fields}[name])
        carried = StageRecord("rebind", RebindParams("", "aligned", 0.5, 0.2))
        contract = replace(contract, stages=(*contract.stages, carried))
    assert lengths == pytest.approx([length] * 3)


@pytest.mark.parametrize(
    ("repeats", "recorded", "expected"),
    [(False, True, None), (True, False, None), (None, False, None), (True, True, True)],
)
def test_the_newer_split_decides_on_seen_items_unless_they_were_chosen(
    repeats: bool | None, recorded: bool, expected: bool | None
) -> None:
    split = replace(TRAINED.split, targets_repeat=repeats)
    last = replace(TRAINED, split=split, options={"eval_exclude_seen": recorded})
    assert training_settings(last, QUICK)[0].eval_exclude_seen is expected
