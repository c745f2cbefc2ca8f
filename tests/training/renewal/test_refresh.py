import shutil
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import ANY, Mock

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
from sidtool.tokenizer.bundle import Bundle, ItemMap
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
from tests.training.runs import FAST, Make, Train, same, valid_of, weights
from tests.training_fixtures import N_ITEMS, make_split, rated_split

refresh_module = import_module("sidtool.training.renewal.refresh")
"""The door of the room gives the function under this name."""
SMALL = {"eval_users": 20, "eval_num_beams": 10}
QUICK = RefreshOptions(share=0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, models: Make, examples: Make) -> Path:
    made = examples(sequence=1.0)
    out = tmp_path_factory.mktemp("trained") / "model"
    settings = {**FAST, "num_train_epochs": 6, "learning_rate": 1e-2, **SMALL, "eval_users": 100}
    settings |= {"save_strategy": "epoch"}
    train(models("gpt2"), made, out, valid=valid_of(made), **settings)
    return out


@pytest.fixture
def renew(tmp_path: Path, trained: Path, retrained: Bundle, later: Split) -> Make:
    """Refreshes the trained model with another bundle and later events to "out"; the arguments
    replace these."""

    def run(
        model: Path = trained, bundle: Bundle = retrained, call: Any = refresh, **more: Any
    ) -> Any:
        return call(model, bundle, **{"out": tmp_path / "out", "split": later, **more})

    return run


@pytest.fixture
def plan(renew: Make) -> Make:
    """As `renew`, without more than a plan."""
    return partial(renew, call=plan_refresh, options=QUICK)


@pytest.fixture
def recording(tmp_path: Path, bundle: Bundle) -> Make:
    """Writes a copy of a model whose contract, or whose last stage, records something else."""

    def write(folder: Path, stage: str = "full", contract: Any = None, **params: Any) -> Path:
        changed = replace(read_contract(folder), **(contract or {}))
        record = StageRecord(stage, replace(changed.params, **params))
        changed = replace(changed, stages=(*changed.stages[:-1], record))
        shutil.copytree(folder, tmp_path / "model")
        write_contract(tmp_path / "model", changed, bundle)
        return tmp_path / "model"

    return write


@pytest.fixture
def remember(tmp_path: Path, trained: Path, split: Split, bundle: Bundle) -> Make:
    """Writes a copy of a model with a memory, built from the split with these arguments, and with a
    re-ranker if it `reranks`."""

    def write(folder: Path = trained, *, reranks: bool = False, **build_options: Any) -> Path:
        memory = build_memory(split, bundle, **build_options)
        reranker = random_reranker(memory.manifest) if reranks else None
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
    tmp_path: Path, trained: Path, renew: Make, later: Split
) -> None:
    before = read_contract(trained).params
    lines: list[str] = []
    summary = renew(options=RefreshOptions(share=0.5), notify=lines.append)
    assert f"starts from {trained} " in lines[0]
    assert (summary.verdict.kind, summary.training.epochs) == ("aligned", pytest.approx(3))
    assert summary.training.best > 0.12  # random: .05
    contract = read_contract(tmp_path / "out")
    assert [record.stage for record in contract.stages] == ["extend", "full", "rebind", "full"]
    params = contract.params
    assert (params.split, params.task_weights) == (later.reference, before.task_weights)
    assert len(load_model_folder(tmp_path / "out").bundle.items) == N_ITEMS + 5
    assert not list(tmp_path.glob("out?*"))


def test_the_memory_is_built_again(
    tmp_path: Path, remember: Make, renew: Make, bundle: Bundle, later: Split
) -> None:
    """With its settings, its weight and its power; without a split it is left out."""
    settings, out = KnnSettings(recency=0.5), tmp_path / "out"
    model = remember(settings=settings, content=ItemContent.of(bundle))
    assert renew(model, options=QUICK).to_json()["model"] == str(out)
    loaded = load_model_folder(out)
    assert (loaded.memory.weight, loaded.memory.power) == (0.4, 3.0)
    assert loaded.contract.memory.validation == {}  # they were those of the earlier model
    content = ItemContent.of(loaded.bundle)
    expected = build_memory(later, loaded.bundle, settings, content=content)
    assert loaded.memory.memory.digest == expected.digest
    assert verify_memory(out / MEMORY_COPY) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
    lines: list[str] = []
    renew(model, out=tmp_path / "aligned", split=None, notify=lines.append)
    assert read_contract(tmp_path / "aligned").memory is None
    assert "memory is left out" in lines[0]


@pytest.mark.slow
def test_a_re_ranker_is_fitted_to_the_new_model_or_left_out(
    tmp_path: Path, short_train: Train, remember: Make, renew: Make, bundle: Bundle, later: Split
) -> None:
    short_train("trained", validates=True, softmax_over="trie", **SMALL)
    model = remember(tmp_path / "trained", reranks=True)
    renew(model, bundle, options=RefreshOptions(share=1.0))
    renewed = read_contract(tmp_path / "out").memory
    assert (renewed.split, renewed.validation["users"]) == (later.reference, len(later.valid))
    assert renewed.reranker is None  # too few users


def test_a_memory_by_vectors_needs_them(
    tmp_path: Path, remember: Make, plan: Make, bundle: Bundle
) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(bundle.items), 8)).astype(np.float32)
    model = remember(content=ItemContent.of(bundle, vectors))
    with pytest.raises(UsageError, match="vectors, and was built for another bundle") as caught:
        plan(model)
    assert caught.value.shell_hint.startswith("--items CATALOG")
    with pytest.raises(UsageError, match="has no memory"):
        plan(embeddings=[tmp_path / "v.npy"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_memory_by_vectors_is_built_again_from_the_texts_of_the_catalog(
    tmp_path: Path,
    remember: Make,
    renew: Make,
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
        renew(model, items=items)
    texts = generator.normal(size=(len(retrained.items), 8)).astype(np.float32)

    def embedded(bundle: Bundle, catalog: Path | None, **options: object) -> Vectors:
        assert catalog == items
        return texts

    monkeypatch.setattr(refresh_module, "check_item_vectors", embedded)
    monkeypatch.setattr(refresh_module, "item_vectors", embedded)
    renew(model, items=items, options=QUICK)
    loaded = load_model_folder(tmp_path / "out")
    content = ItemContent.of(loaded.bundle, texts)
    expected = build_memory(later, loaded.bundle, content=content)
    assert loaded.memory.memory.digest == expected.digest


@pytest.fixture
def interrupted(remember: Make, renew: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with a memory, whose QUICK refresh to "out" was killed when it had trained."""
    model = remember()

    def fail(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(refresh_module, "bind_memory", fail)
        with pytest.raises(KeyboardInterrupt):
            renew(model, options=QUICK)
    return model


@pytest.mark.slow
def test_a_refresh_with_a_memory_resumes_after_training(
    tmp_path: Path, interrupted: Path, renew: Make
) -> None:
    assert not (tmp_path / "out").exists()
    before = weights(tmp_path / "out.trained.partial" / "model")
    renew(interrupted, options=QUICK)
    assert same(weights(tmp_path / "out"), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.slow
def test_what_a_killed_refresh_left_is_replaced_by_force(
    tmp_path: Path, interrupted: Path, renew: Make, plan: Make, later: Split
) -> None:
    other = replace(QUICK, learning_rate=1e-4)
    plan(interrupted)
    for changed in ({"options": other}, {"split": replace(later, train=later.train[:-1])}):
        with pytest.raises(UsageError, match="exists already"):
            plan(interrupted, **changed)
    renew(interrupted, options=other, force=True)
    assert read_contract(tmp_path / "out").params.sft_fields["learning_rate"] == 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.slow
def test_a_line_says_that_teachers_are_not_used(
    tmp_path: Path, trained: Path, recording: Make, renew: Make
) -> None:
    teachers = (ModelReference("teacher", {"model.safetensors": "0" * 64}),)
    lines: list[str] = []
    renew(recording(trained, teachers=teachers), options=QUICK, notify=lines.append)
    assert "the model was distilled: refresh trains it without its teachers" in lines
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
    tmp_path: Path, renew: Make, given: Any, option: str
) -> None:
    with pytest.raises(UsageError, match=f"{option} has no effect without a split"):
        renew(split=None, **given)
    assert not list(tmp_path.iterdir())


def test_without_a_split_only_bundle_and_rows_change(
    tmp_path: Path, trained: Path, renew: Make
) -> None:
    assert renew(split=None).training is None
    before, after = weights(trained), weights(tmp_path / "out")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["transformer.wte.weight"]
    start = read_contract(trained).token_start
    assert torch.equal(before[changed[0]][:start], after[changed[0]][:start])


def test_a_larger_bundle_keeps_every_row(tmp_path: Path, trained: Path, bundle: Bundle) -> None:
    assert refresh(trained, bundle, tmp_path / "same").verdict.kind == "same"
    assert same(weights(trained), weights(tmp_path / "same"))


def test_without_validation_users_the_training_runs_to_its_end(
    tmp_path: Path, trained: Path, remember: Make, renew: Make, bundle: Bundle, later: Split
) -> None:
    model = remember(reranks=True)
    # new events may be ahead of the catalog
    unknown = UserSequence("new", ("unknown",) * 500, tuple(range(500)))
    ahead = replace(later, train=(*later.train, unknown), valid=())
    with pytest.warns(SidtoolWarning, match="events are of items that the bundle lacks"):
        summary = renew(model, bundle, split=ahead, options=QUICK)
    assert summary.training.metric is None
    memory = read_contract(tmp_path / "out").memory
    assert (memory.weight, memory.power, memory.reranker) == (0.4, 3.0, None)
    make_sft(bundle, bundle.catalog, replace(later, valid=()), tmp_path / "train.jsonl")
    stages = [StageSettings(TrainOptions(), {})]
    (run,) = plan_stages(trained, tmp_path / "train.jsonl", tmp_path / "next", stages)
    assert run.valid is None


def test_a_split_that_does_not_extend_the_models_is_refused(
    tmp_path: Path, renew: Make, later: Split
) -> None:
    unrelated = replace(later, origin=replace(later.origin, extends=()))
    with pytest.raises(CompatibilityError, match="may have learned"):
        renew(split=unrelated)
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
    weighted: Path, recording: Make, plan: Make, bundle: Bundle, later: Split
) -> None:
    tasks = {"predict-rating": 1.0, "list": 1.0}
    model = recording(weighted, task_weights=tasks)
    last = plan(model, bundle, split=rated_split(later)).last
    assert last.task_weights == tasks
    # a contract before 0.3 has no length but that of the prompt
    options = last_sft_options(read_contract(model), replace(last, sft=None), 0)
    assert options.history_length == 6


def test_a_split_without_the_fields_is_refused(
    tmp_path: Path, weighted: Path, renew: Make, bundle: Bundle, split: Split
) -> None:
    rated = rated_split(split)
    for lacking, message in (
        ({"feedback": {}}, "the split has no feedback 'rating'"),
        ({"user": {}}, r"\{user.age\} is no field of the split"),
    ):
        origin = SplitOrigin(fields=replace(rated.fields, **lacking))
        with pytest.raises(UsageError, match=message):
            renew(weighted, bundle, split=replace(rated, origin=origin))
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
    recording: Make,
    renew: Make,
    split: Split,
    sft: Any,
    changes: Any,
    option: str,
) -> None:
    made = None if sft is None else replace(read_contract(weighted).params.sft, **sft)
    model = recording(weighted, sft=made, **changes)
    with pytest.raises(UsageError, match=f"it does not record {option}") as error:
        renew(model, split=rated_split(split))
    assert error.value.shell_hint == f"sidtool make-sft {option}, then sidtool train"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_template_than_the_models_is_refused(
    tmp_path: Path, trained: Path, recording: Make, renew: Make, bundle: Bundle, later: Split
) -> None:
    contract = read_contract(trained)
    prompt = replace(contract.history_prompt, template="Bought: {history}")
    model = recording(trained, contract={"history_prompt": prompt})
    message = r"is 'Bought: \{history\}', a template that refresh has"
    with pytest.raises(UsageError, match=message):
        renew(model, bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    made, labels = tmp_path / "train.jsonl", SftOptions({"predict-rating": 1.0})
    (label,) = make_sft(bundle, bundle.catalog, rated_split(later), made, labels).label_prompts
    refuse_other_template(replace(contract, label_prompts=(label,)), made, model)
    contract = replace(contract, label_prompts=(replace(label, template="Bought: {history}"),))
    with pytest.raises(UsageError, match=message):
        refuse_other_template(contract, made, model)


def test_other_levels_and_untrained_models_are_refused(
    tmp_path: Path, models: Make, renew: Make, bundle: Bundle
) -> None:
    with pytest.raises(RefusedError, match="levels"):
        renew(bundle=small_bundle(N_ITEMS, (5, 5, 6)))
    # a map, which cannot be aligned, is refused for the SIDs that differ
    moved = ItemMap.of(bundle.space, list(bundle.items.ids), bundle.items.codes[::-1])
    with pytest.raises(CompatibilityError, match="common items have another SID"):
        renew(bundle=Bundle.of(moved, None, "reassign", name="map"))
    # two bundles that were made from one, each with new items
    made_by = (bundle.codebook, bundle.manifest.collisions.policy)
    beside = Bundle.of(moved, *made_by, name="beside", recipe=bundle.manifest.recipe)
    with pytest.raises(CompatibilityError, match="'beside' changes SIDs of the model's bundle"):
        renew(bundle=beside)
    with pytest.raises(CompatibilityError, match="was not trained by sidtool"):
        renew(models("gpt2"), bundle)
    with pytest.raises(UsageError, match="share must be more than 0"):
        RefreshOptions(share=0)
    assert not list(tmp_path.iterdir())


def test_tasks_that_show_text_need_a_catalog(
    tmp_path: Path, trained: Path, recording: Make, plan: Make, bundle: Bundle
) -> None:
    # the columns are those that its examples showed
    shown = replace(read_contract(trained).params.sft, columns=("brand",))
    model = recording(trained, sft=shown, task_weights={"item-text": 1.0})
    items = tmp_path / "items.csv"
    with pytest.raises(UsageError, match="item-text shows text") as error:
        plan(model, bundle)
    assert error.value.shell_hint == "--items CATALOG"
    with pytest.raises(DataError, match="does not exist"):
        plan(model, bundle, items=items)
    items.write_text("item_id,title,brand,color\n" + "i0,lamp,Acme,red\n")
    assert list(plan(model, bundle, items=items).catalog.fields) == ["brand"]


def test_an_output_that_is_being_written_is_refused_before_any_work(
    tmp_path: Path, renew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_module, "_renewed_memory", Mock(side_effect=AssertionError))
    for written in (tmp_path / "out", tmp_path / "out.refresh.partial"):
        with locked(written), pytest.raises(UsageError, match="is being written"):
            renew()


def test_an_interrupted_refresh_resumes_to_the_same_weights(
    tmp_path: Path, renew: Make, plan: Make
) -> None:
    out, options = tmp_path / "out", RefreshOptions(share=0.4)
    renew(out=tmp_path / "whole", options=options)

    def stop_after_two_epochs(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    (tmp_path / "out-refresh").mkdir()  # another output
    with locked(out), pytest.raises(UsageError, match="is being written"):
        renew(options=options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-refresh", "whole"]
    with pytest.raises(KeyboardInterrupt):
        renew(options=options, progress=stop_after_two_epochs)
    assert not out.exists()
    plan(options=options)
    with pytest.raises(UsageError, match=r"different settings\.num_train_epochs"):
        plan()
    plan(force=True)
    assert renew(options=options).training.resumed_from is not None
    assert same(weights(tmp_path / "whole"), weights(out))
    # the next refresh is as long
    _, fields = training_settings(plan(out, out=tmp_path / "next", options=options).last, options)
    assert fields["num_train_epochs"] == pytest.approx(0.4 * 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-refresh", "whole"]


def test_a_killed_refresh_of_a_token_budget_resumes(
    tmp_path: Path, trained: Path, recording: Make, renew: Make, plan: Make, bundle: Bundle
) -> None:
    recorded = read_contract(trained).params.options
    model = recording(trained, options=recorded | {"token_budget": 20000})

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        renew(model, bundle, options=QUICK, progress=stop)
    assert (tmp_path / "out.partial").exists()
    plan(model, bundle)


def test_a_plan_refuses_a_model_of_adapters(trained: Path, recording: Make, plan: Make) -> None:
    model = recording(trained, contract={"base_folder": ModelReference.of(trained)})
    with pytest.raises(UsageError, match="has adapters"):
        plan(model)


def test_a_plan_needs_a_rate_for_merged_adapters(
    trained: Path, recording: Make, plan: Make
) -> None:
    options = read_contract(trained).params.options | {"stage": "lora"}
    model = recording(trained, "lora", options=options)
    for force in (False, True):
        with pytest.raises(UsageError, match="learning rate is too large for all weights"):
            plan(model, force=force)


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
        # validations are due at every `logging_steps`, and checkpoints at every 500 steps
        ({"max_steps": 440, "eval_strategy": "steps", "save_steps": 100}, "eval_steps", 10),
        ({"max_steps": 440, "eval_strategy": "steps", "eval_steps": 125}, "save_steps", 100),
        # or a short training would have no validation
        ({"num_train_epochs": 4, "eval_delay": 2}, "eval_delay", 0.4),
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
