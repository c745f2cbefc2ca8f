"""Adopted models go on like any other: they train, take adapters and newer bundles, evaluate, and
are reinforced by log-probabilities of the tokens that the other system's tokenizer has."""

import csv
import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.data import make_items
from sidtool.data.split import Example, Split, SplitOptions, UserSequence, split_events
from sidtool.evaluation import EvaluationOptions, evaluate
from sidtool.evaluation.tasks.questions import TaskEvaluationOptions, make_questions
from sidtool.examples import SftOptions, TokenizedExamples, make_sft
from sidtool.integrations.adopt import AdoptOptions, adopt
from sidtool.integrations.formats import read_map
from sidtool.model import LoadedModel, load_model_folder, rebind
from sidtool.model.contract import read_contract
from sidtool.model.prompt import prompt_encoder
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.tokenizer import add_items
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.make.encode import NO_ITEMS
from sidtool.training import TrainOptions, train
from sidtool.training.reinforcement import RlOptions, rl
from sidtool.training.reinforcement.policy import GroupScores, Policy
from sidtool.training.run_checks import plan_training
from tests.integrations.adopt import foreign
from tests.integrations.adopt.foreign import Foreign
from tests.models import tiny_model, tiny_tokenizer
from tests.search_cases import path_log_probs
from tests.shared_data import DATA

INDUSTRIAL = DATA / "minionerec-industrial"
SHORT = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 0.01}
SHORT |= {"eval_strategy": "no", "save_strategy": "no"}


def split_of(items: list[str]) -> Split:
    """Eight users who go through the items in steps of one."""
    users = [items[start : start + 6] for start in range(0, 16, 2)]
    histories = [(f"u{n}", tuple(row[:4])) for n, row in enumerate(users)]
    train_part = [UserSequence(user, items, (0, 1, 2, 3)) for user, items in histories]
    valid = [Example(f"u{n}", tuple(row[:4]), row[4], 4) for n, row in enumerate(users)]
    test = [Example(f"u{n}", tuple(row[:5]), row[5], 5) for n, row in enumerate(users)]
    return Split("leave-one-out", tuple(train_part), tuple(valid), tuple(test))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Foreign, Path, Path]]:
    """A system's model, its adopted folder, and training examples in its own prompt."""
    systems: dict[str, Any] = {
        "openonerec": foreign.openonerec,
        # with a token between those of SIDs
        "minionerec": lambda folder: foreign.minionerec(folder, others=["<b>"]),
    }

    @cache
    def make(name: str) -> tuple[Foreign, Path, Path]:
        folder = tmp_path_factory.mktemp(name)
        model = systems[name](folder / "model")
        out, examples = folder / "adopted", folder / "train.jsonl"
        adopt(model.folder, model.map, out, AdoptOptions(preset=name))  # type: ignore[arg-type]
        ids = tuple(model.sids)
        titles = tuple(f"film {item}" for item in ids)
        catalog = make_items(ids, titles, titles, fields={}, template="{title}")
        bundle = Bundle.open(out / "sid.zarr")
        options = SftOptions({"next-item": 1.0}, max_length=512, history_length=4)
        make_sft(bundle, catalog, split_of(list(ids)), examples, options, model=out)
        return model, out, examples

    return make


def weights_of(folder: Path) -> tuple[LoadedModel, torch.Tensor]:
    loaded = load_model_folder(folder)
    return loaded, loaded.model.get_input_embeddings().weight.detach()


@pytest.mark.parametrize(
    ("name", "stage"),
    [pytest.param("openonerec", "embeddings", marks=pytest.mark.slow), ("minionerec", "full")],
)
def test_an_adopted_model_trains_and_takes_a_newer_bundle(
    name: str, stage: Any, shops: Any, tmp_path: Path
) -> None:
    model, folder, examples = shops(name)
    options = TrainOptions(stage=stage, softmax_over="trie" if stage == "full" else "sid")
    train(folder, examples, tmp_path / "tuned", options=options, sft_fields=SHORT)
    loaded, after = weights_of(tmp_path / "tuned")
    _, before = weights_of(folder)
    contract = loaded.contract
    assert [record.stage for record in contract.stages] == ["adopt", stage]
    assert contract.tokens == read_contract(folder).tokens
    prompt = read_contract(folder).history_prompt
    assert prompt is not None
    assert contract.history_prompt.template == prompt.template
    assert contract.history_prompt.separator == prompt.separator
    moved = (before != after).any(1).nonzero().ravel().tolist()
    used = contract.tokens.token_ids[contract.tokens.token_ids >= 0].tolist()
    assert set(moved) & set(used)
    if stage == "embeddings":
        assert set(moved) <= set(used)
    else:
        with pytest.raises(UsageError, match="other tokens between them"):
            plan_training(folder, examples, tmp_path / "rows", TrainOptions(stage="lora"), {})
    first = next(iter(model.sids))
    newer = add_items(loaded.bundle, NO_ITEMS, remove=[first])
    assert rebind(tmp_path / "tuned", newer, tmp_path / "rebound").kind == "refreshed"
    options_of_query = RecommendOptions(k=len(model.sids) - 1, num_beams=30)
    history = tuple(model.sids)[3:5]
    (answer,) = recommend(tmp_path / "rebound", [Request("u", history)], options_of_query)
    assert sorted(answer.items) == sorted(set(model.sids) - {first})


def test_examples_keep_an_adopted_prompt_of_titles(tmp_path: Path) -> None:
    model = foreign.minionerec(tmp_path / "model")
    ids = tuple(model.sids)
    titles = tuple(f"film {item}" for item in ids)
    catalog = make_items(ids, titles, titles, fields={}, template="{title}")
    templates = {"prompts": ["Bought: {history}. Next:"], "separator": ", ", "items": ["{title}"]}
    (tmp_path / "own.json").write_text(json.dumps(templates))
    adopt(model.folder, model.map, tmp_path / "out", template_file=tmp_path / "own.json")
    prompt = read_contract(tmp_path / "out").history_prompt
    bundle, task = Bundle.open(tmp_path / "out" / "sid.zarr"), "title-history-to-sid"
    inputs = (bundle, catalog, split_of(list(ids)), tmp_path / "train.jsonl")
    lineage = make_sft(*inputs, SftOptions({task: 1.0}), model=tmp_path / "out")
    learned = lineage.history_prompt
    assert prompt is not None
    assert (learned.task, learned.frame) == (prompt.task, prompt.frame)
    first = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[1])
    assert first["prompt"] == "Bought: film 0, film 1. Next:"


@pytest.mark.filterwarnings("ignore:.*(without a token|the bundle lacks)")
def test_items_without_a_token_are_not_learned(tmp_path: Path) -> None:
    model = foreign.minionerec(tmp_path / "model")
    index = dict(model.sids)
    unspelled = {
        item: ("<a_0>", "<b_1>", code) for item, code in (("new", "<c_63>"), ("old", "<c_62>"))
    }
    model.map.write_text(json.dumps(index | unspelled))
    adopt(model.folder, model.map, tmp_path / "adopted", AdoptOptions(preset="minionerec"))
    bundle = add_items(Bundle.open(tmp_path / "adopted" / "sid.zarr"), NO_ITEMS, remove=["old"])
    ids = list(index)
    ids[1:1] = ["old"]
    ids[5:5] = ["new"]  # the test item of the first user
    titles = tuple(f"film {item}" for item in ids)
    catalog = make_items(tuple(ids), titles, titles, fields={}, template="{title}")
    split, examples = split_of(ids), tmp_path / "train.jsonl"
    options = SftOptions({"next-item": 1.0, "history-text": 1.0, "title-to-sid": 1.0})
    lineage = make_sft(bundle, catalog, split, examples, options, model=tmp_path / "adopted")
    loaded = load_model_folder(tmp_path / "adopted", bundle=bundle)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    learned = TokenizedExamples.read(examples, encoder, codes_only=False)
    assert len(learned) == sum(counts.examples for counts in lineage.tasks.values())
    n_events = sum(item in unspelled for user in split.train for item in user.items)
    assert lineage.dropped_events == n_events > 1
    assert (lineage.bundle, lineage.leaked_events) == (bundle.identity, 0)
    asked = TaskEvaluationOptions(task="next-item")
    questions, _ = make_questions(loaded, split.test, asked, split.fields)
    assert len(questions) == len(split.test) - 1
    for question in questions:
        encoder.ids((*question.prompt, *question.answer))  # which raises for such a code


def head_of(source: Path, target: Path, n: int) -> Path:
    """The first windows of a file whose target and history are there in full."""
    with source.open(encoding="utf-8", newline="") as stream:
        rows = list(itertools.islice(csv.reader(stream), n + 1))
    with target.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return target


@pytest.mark.skipif(not INDUSTRIAL.is_dir(), reason="the shared data is not at hand")
def test_the_files_of_minionerec_evaluate_through_an_adopted_model(tmp_path: Path) -> None:
    index = json.loads((INDUSTRIAL / "index.json").read_text())
    tokenizer = tiny_tokenizer()
    used = sorted({token for sid in index.values() for token in sid})
    tokenizer.add_tokens(used)
    tokenizer.save_pretrained(tmp_path / "model")
    model = tiny_model("qwen2", vocab_size=len(tokenizer), max_position_embeddings=2048)
    model.save_pretrained(tmp_path / "model")
    bundle = read_map(INDUSTRIAL / "index.json", name="industrial", info=INDUSTRIAL / "info.txt")
    bundle.save(tmp_path / "industrial.zarr")
    folders = (tmp_path / "model", tmp_path / "industrial.zarr", tmp_path / "adopted")
    adoption = adopt(*folders, AdoptOptions(preset="minionerec"))
    assert (adoption.items, adoption.items_without_token, adoption.equal_rows) == (3686, 0, 0)
    assert adoption.tokens.number == len(used) == 560
    parts = {
        part: head_of(INDUSTRIAL / f"{name}.csv", tmp_path / f"{part}.csv", 60)
        for part, name in (("train", "train_partial"), ("valid", "valid"), ("test", "test"))
    }
    options = SplitOptions(protocol="given", valid=parts["valid"], test=parts["test"])
    split_events(parts["train"], tmp_path / "split", options)
    options = EvaluationOptions(limit=12, ks=(10,), num_beams=20, samples=0)
    evaluation = evaluate(tmp_path / "adopted", tmp_path / "split", options)
    assert evaluation.n == 12
    # the SIDs of the windows are those of the bundle
    copy = Bundle.open(tmp_path / "adopted" / "sid.zarr")
    with parts["test"].open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            assert copy.sid(row["item_id"]) == row["item_sid"]


GRPO_FIELDS: dict[str, Any] = {"num_generations": 4, "per_device_train_batch_size": 8}
GRPO_FIELDS |= {"learning_rate": 1e-2, "warmup_steps": 0, "logging_steps": 1, "max_steps": 3}
GRPO_FIELDS |= {"eval_strategy": "steps", "save_strategy": "steps"}
GRPO_FIELDS |= {"eval_steps": 3, "save_steps": 3}


@pytest.mark.parametrize("normalize", ["level", pytest.param("trie", marks=pytest.mark.slow)])
def test_log_probabilities_are_those_over_the_table(
    shops: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalize: str
) -> None:
    _, start, examples = shops("minionerec")
    if normalize == "trie":
        options = TrainOptions(softmax_over="trie")
        train(start, examples, tmp_path / "tuned", options=options, sft_fields=SHORT)
        start = tmp_path / "tuned"
    contract = read_contract(start)
    table, catalog = contract.token_table, Bundle.open(start / "sid.zarr").items.codes.tolist()
    assert -1 in table.ids  # of codes that are not used
    scored = 0
    plain = Policy.scores

    def checked(
        policy: Policy, model: Any, prompts: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor
    ) -> GroupScores:
        """The scores, compared with those of the oracle under the weights of the moment."""
        nonlocal scored
        scores = plain(policy, model, prompts, mask, codes)
        for row, (ids, is_token) in enumerate(zip(prompts, mask, strict=True)):
            path = (ids[is_token.bool()].tolist(), codes[row], contract.tokens)
            expected = path_log_probs(policy.network, *path, normalize, catalog)
            actual = scores.log_probs[row].detach()
            np.testing.assert_allclose(actual, expected, atol=2e-3)
            assert all(sid in catalog for sid in codes[row].tolist())
            scored += len(expected)
        return scores

    monkeypatch.setattr(Policy, "scores", checked)
    logs: list[dict[str, float]] = []
    summary = rl(
        start,
        examples,
        tmp_path / "reinforced",
        options=RlOptions(eval_users=4, eval_num_beams=8),
        grpo_fields=GRPO_FIELDS,
        allow_worse_slices=True,
        log=logs.append,
    )
    assert (summary.steps, summary.groups) == (3, 6)
    assert scored >= 3 * 8
    assert all(entry["grad_norm"] > 0 for entry in logs if "grad_norm" in entry)
    loaded = load_model_folder(tmp_path / "reinforced")
    assert (loaded.contract.token_table, loaded.contract.stages[-1].stage) == (table, "rl")
    before = load_model_folder(start).model.get_input_embeddings().weight
    after = loaded.model.get_input_embeddings().weight
    used = [token_id for token_id in table.ids if token_id >= 0]
    assert (before != after)[used].any()
