import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data import Items
from sidtool.data.split import Split
from sidtool.examples import SftOptions, TokenizedExamples, make_sft
from sidtool.memory import build_memory
from sidtool.model import extend_model, load_model_folder
from sidtool.model.contract import MemoryBinding, check_model_split, read_contract, write_contract
from sidtool.model.prompt import prompt_encoder
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import TrainOptions
from sidtool.training.loss.loss import Teachers, load_teachers
from sidtool.training.run_checks import plan_training
from sidtool.training.training import train
from tests.bundles import small_bundle
from tests.models import tiny_model, tiny_tokenizer, unsigned
from tests.training.runs import FAST, Make, Stopped, Train
from tests.training_fixtures import make_split

BRIEF = {"num_train_epochs": 1, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, models: Make, examples: Make) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "tuned"
    settings = {**FAST, **BRIEF, "num_train_epochs": 3}
    train(models("gpt2"), examples(sequence=1.0), out, **settings)
    return out


def answers(folder: Path, examples: Path) -> torch.Tensor:
    """(targets, codes) log-probabilities over all codes, where the examples have targets."""

    served = load_model_folder(folder)
    encoder = prompt_encoder(served.tokenizer, served.tokens)
    read = TokenizedExamples.read(examples, encoder, codes_only=True)
    result = []
    for ids, targets, *_ in (read[i] for i in range(20)):
        with torch.no_grad():
            logits = served.model(input_ids=torch.tensor(ids[None].astype("int64"))).logits[0, :-1]
        target_logits = logits[torch.from_numpy(targets[1:].copy())]
        result.append(target_logits[:, served.tokens.start : served.tokens.stop].log_softmax(-1))
    return torch.cat(result)


@pytest.mark.slow
def test_distillation_brings_a_model_closer_to_its_teacher(
    tmp_path: Path, teacher: Path, examples: Make, short_train: Train
) -> None:
    """A model of another shape: a teacher shares examples and bundle with its pupil, no weights."""
    made = examples(sequence=1.0)
    taught = answers(teacher, made)

    def distance(name: str, **settings: Any) -> float:
        short_train(name, "llama", **BRIEF, **settings)
        return float((taught.exp() * (taught - answers(tmp_path / name, made))).sum(-1).mean())

    alone = distance("alone")
    half = distance("half", teachers=[teacher], distill_weight=0.5)
    assert distance("whole", teachers=[teacher, teacher], distill_weight=1.0) < half < alone
    (first, second) = read_contract(tmp_path / "whole").params.teachers
    assert (first, first.path, list(first.weights)) == (second, str(teacher), ["model.safetensors"])
    assert read_contract(tmp_path / "alone").params.teachers == ()
    # a pupil needs no teacher
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name for path in teacher.iterdir()}


def test_incompatible_teachers_are_refused(
    tmp_path: Path, teacher: Path, models: Make, examples: Make, short_train: Train
) -> None:
    base = models("gpt2")
    run = (base, examples(sequence=1.0), tmp_path / "pupil", TrainOptions(), {})

    def extended(name: str, tokenizer: Any, bundle: Any, padding: int = 0) -> Path:
        tokenizer.save_pretrained(tmp_path / name)
        tiny_model("gpt2", vocab_size=len(tokenizer) + padding).save_pretrained(tmp_path / name)
        extend_model(str(tmp_path / name), bundle, tmp_path / f"{name}+sid")
        return tmp_path / f"{name}+sid"

    def refused(folder: Path, message: str, error: type[Exception] = CompatibilityError) -> None:
        with pytest.raises(error, match=message):
            short_train("pupil", teachers=(teacher, folder))
        # a plan, as --dry-run prints it, is refused too
        with pytest.raises(error, match=message):
            plan_training(*run, teachers=(teacher, folder))
        assert not list(tmp_path.glob("pupil*"))

    contract = read_contract(base)
    with_memory = replace(contract, memory=MemoryBinding("ab" * 32, 0.5, 2.0, {}))
    write_contract(tmp_path / "mixed", with_memory, small_bundle(40))
    refused(tmp_path / "mixed", "mixed contains a memory", UsageError)
    refused(models("t5"), "is encoder-decoder, the model causal", UsageError)
    longer = tiny_tokenizer(chat=True)
    longer.add_tokens(["another"])
    shifted = extended("shifted", longer, load_model_folder(base).bundle)
    refused(shifted, f"the model from {contract.token_start}")
    foreign = extended("foreign", tiny_tokenizer(chat=True), small_bundle(40, seed=9))
    refused(foreign, r"foreign\+sid has other SIDs: .* has codebook")
    refused(tmp_path / "shifted", "it has no sid.json")
    spelled = extended("spelled", tiny_tokenizer(chat=True), load_model_folder(base).bundle)
    path = spelled / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer))
    unsigned(spelled)
    with pytest.raises(CompatibilityError, match="another tokenizer"):
        load_teachers([spelled], load_model_folder(base), None)
    wider = extended("wider", tiny_tokenizer(chat=True), load_model_folder(base).bundle, 500)
    load_teachers([wider], load_model_folder(base), (0, 5))
    with pytest.raises(CompatibilityError, match=r"wider\+sid has \d+ logits, the model \d+"):
        load_teachers([wider], load_model_folder(base), None)


def test_a_teacher_reads_the_longest_example(models: Make, short_train: Train) -> None:
    short = models("gpt2", max_position_embeddings=16)
    with pytest.raises(UsageError, match=r"has \d+ tokens, teacher .* reads 16"):
        short_train("student", "llama", teachers=[short])


def test_a_memory_teaches(tmp_path: Path, bundle: Bundle, split: Split, short_train: Train) -> None:
    memory = build_memory(split, bundle)
    memory.save(tmp_path / "memory.zarr")
    alone = {**BRIEF, "softmax_over": "trie"}
    teachers = [tmp_path / "memory.zarr"]
    taught = {**alone, "teachers": teachers}
    steps = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(Stopped):
        short_train("pupil", stop=3, **taught, **steps)
    twice = {**taught, "teachers": [tmp_path / "memory.zarr"] * 2}
    for other in (alone, twice):
        with pytest.raises(UsageError, match="different teachers"):
            short_train("pupil", **other, **steps)
    # the run continues where its folders were moved
    shutil.move(tmp_path / "memory.zarr", tmp_path / "moved.zarr")
    alone_given = {**taught, "teachers": tmp_path / "moved.zarr"}
    assert short_train("pupil", **alone_given, **steps).resumed_from == "checkpoint-2"
    short_train("alone", **alone)
    (teacher,) = read_contract(tmp_path / "pupil").params.teachers
    assert teacher.weights == {"memory": memory.digest}
    assert teacher.path == str(tmp_path / "moved.zarr")
    teachers = [tmp_path / "moved.zarr"]
    taught["teachers"] = teachers
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("pupil", "alone")]
    assert weights[0] != weights[1]
    with pytest.raises(UsageError, match="the loss is over level"):
        short_train("refused", **{**taught, "softmax_over": "level"})
    with pytest.raises(UsageError, match="over vocabulary") as refused:
        short_train("refused", mix={"title_to_sid": 1.0, "sid_to_title": 1.0}, teachers=teachers)
    assert refused.value.hint == "training examples that all answer with SIDs"
    with pytest.raises(UsageError, match="teaches causal models"):
        short_train("refused", "t5", **taught)
    for other in (
        build_memory(make_split(seed=1), bundle),
        build_memory(split, small_bundle(len(bundle.items), seed=9)),
    ):
        other.save(tmp_path / f"{other.digest}.zarr")
        with pytest.raises(CompatibilityError, match="the examples have"):
            short_train("refused", **{**taught, "teachers": [tmp_path / f"{other.digest}.zarr"]})


def test_examples_are_packed_only_if_the_teachers_support_packing() -> None:
    eager = tiny_model("llama", vocab_size=40)
    assert Teachers([eager], None).packs
    eager.set_attn_implementation("eager")
    assert not Teachers([tiny_model("gpt2", vocab_size=40), eager], None).packs


def test_a_model_has_learned_what_its_teachers_learned(
    tmp_path: Path, teacher: Path, models: Make, bundle: Bundle, catalog: Items, split: Split
) -> None:
    """The pupil's split lacks a user of the teacher's, so a third one may hold out what only the
    teacher was trained on."""

    def later(users: int, *extends: Split) -> Split:
        digests = tuple(earlier.reference.digest for earlier in extends)
        return replace(make_split(users), origin=replace(split.origin, extends=digests))

    second = later(59, split)
    made = tmp_path / "train.jsonl"
    make_sft(bundle, catalog, second, made, SftOptions({"sequence": 1.0}))
    out = tmp_path / "out"
    run = plan_training(models("gpt2"), made, out, TrainOptions(), {}, teachers=[teacher])
    contract = run.new_contract()
    for third in (second, later(58, second, split)):
        check_model_split(contract, bundle, "the split", third.reference)
    with pytest.raises(CompatibilityError, match="may have learned from held-out events"):
        check_model_split(contract, bundle, "the split", later(58, second).reference)
