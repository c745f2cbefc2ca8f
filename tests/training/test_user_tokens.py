from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sidtool.base.errors import CompatibilityError, DataError, UsageError
from sidtool.data.split import Split
from sidtool.evaluation.tasks import evaluate_task
from sidtool.examples import TokenizedExamples, read_training_examples
from sidtool.model import ExtendOptions, extend_model, load_model_folder, merge
from sidtool.model.contract import read_contract
from sidtool.model.prompt import prompt_encoder
from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import train
from sidtool.training.reinforcement import RlOptions
from sidtool.training.reinforcement.examples import read_rl_examples
from sidtool.training.reinforcement.list_trainer import ListValidation
from sidtool.training.reinforcement.pairs import ListWriter
from sidtool.training.reinforcement.rewards.kinds import list_recall
from sidtool.training.reinforcement.rewards.reward import RewardContext
from tests.cli.road import write_lines
from tests.training.runs import Make, short_rl

BRIEF = {"num_train_epochs": 1, "per_device_train_batch_size": 64, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def with_users(tmp_path_factory: pytest.TempPathFactory, models: Make, bundle: Bundle) -> Path:
    """A T5 with 50 user tokens."""
    out = tmp_path_factory.mktemp("users") / "base+sid"
    extend_model(models("t5").parent / "base", bundle, out, ExtendOptions(user_tokens=50))
    return out


def test_the_contract_records_the_tokens_and_every_embedding_has_rows(
    with_users: Path, models: Make
) -> None:
    loaded = load_model_folder(with_users)
    contract = loaded.contract
    assert contract.user_tokens == 50
    stop = contract.tokens.stop
    assert (contract.users.start, contract.users.stop) == (stop, stop + 50)
    assert loaded.model.config.vocab_size == contract.users.stop
    rows = loaded.model.get_input_embeddings().weight[contract.users.start :].detach().numpy()
    assert len(np.unique(rows, axis=0)) == 50
    # those of SID tokens are as without users
    plain = load_model_folder(models("t5"))
    sid_rows = slice(contract.tokens.start, contract.tokens.stop)
    sid_weights = loaded.model.get_input_embeddings().weight[sid_rows]
    assert torch.equal(sid_weights, plain.model.get_input_embeddings().weight[sid_rows])


@pytest.mark.parametrize("task", ["sequence", pytest.param("next_item", marks=pytest.mark.slow)])
def test_a_served_prompt_is_that_of_its_training_example(
    task: str, tmp_path: Path, with_users: Path, examples: Make
) -> None:
    made = examples(**{task: 1.0})
    out = tmp_path / "tuned"
    train(with_users, made, out, stage="embeddings", **BRIEF)
    loaded = load_model_folder(out)
    users = loaded.contract.users
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    read = TokenizedExamples.read(made, encoder, codes_only=True, user_tokens=users)
    session = QuerySession.of(loaded)
    levels = loaded.tokens.space.levels
    first = loaded.tokens.start
    size = loaded.tokens.space.sizes[0]
    checked = 0
    for number, example in enumerate(read_training_examples(made)):
        ids = read[number].ids
        assert ids[0] == users.id(example["user"])
        first_codes = np.flatnonzero((ids >= first) & (ids < first + size))
        if len(first_codes) < 2 or len(first_codes) > 6:
            continue
        places = first_codes[:-1, None] + np.arange(levels)
        codes = loaded.tokens.codes(ids[places].astype(np.int64))
        rows, _ = loaded.bundle.items.rows_at(codes)
        served = session.from_history(rows, user=example["user"])
        assert served == ids[: first_codes[-1]].tolist()
        assert session.from_history(rows) == served[1:]
        checked += 1
    assert checked > 20


def test_a_query_has_no_user_token_and_no_example_is_without_a_weight(
    with_users: Path, tmp_path: Path
) -> None:
    loaded = load_model_folder(with_users)
    sid = loaded.bundle.space.spell((0,) * loaded.bundle.space.levels)
    examples = [
        {"task": "query-to-sid", "user": "u0", "prompt": "a lamp", "completion": sid},
        {"task": "next-item", "user": "u0", "prompt": sid, "completion": sid},
        {"task": "next-item", "user": "u0", "prompt": sid, "completion": sid, "weight": 0.0},
    ]
    path = write_lines(tmp_path / "train.jsonl", examples)
    users = loaded.contract.users
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    made = {"codes_only": True, "user_tokens": users}
    read = TokenizedExamples.read(path, encoder, **made)
    has_token = [users.id("u0") in read[number].ids for number in range(len(read))]
    assert has_token == [False, True]


@pytest.mark.slow
def test_adapters_train_the_rows_of_users_and_merge(
    with_users: Path, tmp_path: Path, examples: Make
) -> None:
    made = examples(sequence=1.0)
    train(with_users, made, tmp_path / "lora", stage="lora", lora_r=2, **BRIEF)
    merge(tmp_path / "lora", tmp_path / "merged")
    start = read_contract(with_users).tokens.stop
    before, after = (
        load_model_folder(folder).model.get_input_embeddings().weight
        for folder in (with_users, tmp_path / "merged")
    )
    assert not torch.equal(before[start:], after[start:])
    first = read_contract(with_users).token_start
    assert torch.equal(before[:first], after[:first])


@pytest.mark.slow
def test_groups_begin_with_the_token_of_their_user(
    with_users: Path, tmp_path: Path, examples: Make
) -> None:
    made = examples(sequence=1.0)
    start = tmp_path / "tuned"
    train(with_users, made, start, softmax_over="trie", **BRIEF)
    loaded = load_model_folder(start)
    users = loaded.contract.users
    session = QuerySession.of(loaded)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    events = read_rl_examples(made, "sequence", encoder, loaded.bundle)
    assert len(events.users) == len(events)
    numbers = range(0, len(events), 7)
    firsts = [events.query(session, number).prompt[0] for number in numbers]
    assert firsts == [users.id(events.users[number]) for number in numbers]
    assert len(set(firsts)) > 5
    short_rl(start, made, tmp_path / "out", max_steps=1)
    assert load_model_folder(tmp_path / "out").contract.user_tokens == 50


@pytest.mark.slow
def test_lists_are_validated_behind_the_token_of_their_user(
    tmp_path: Path, models: Make, bundle: Bundle, examples: Make, split: Split
) -> None:
    base = models("gpt2").parent / "base"
    extend_model(base, bundle, tmp_path / "base+sid", ExtendOptions(user_tokens=50))
    train(tmp_path / "base+sid", examples(list=1.0), tmp_path / "lists", **BRIEF)
    loaded = load_model_folder(tmp_path / "lists")
    session = QuerySession.of(loaded, list_length=3)
    recall = partial(list_recall, _=RewardContext(bundle))
    options = RlOptions("ipa", eval_num_beams=4, exclude_seen=True)
    writer = ListWriter(session, recall, 3, options)
    validation = ListValidation.of(writer, split.valid[:9])
    tokens = loaded.contract.users
    firsts = [query.prompt[0] for query in validation.queries]
    assert firsts == [tokens.id(user) for user in validation.users]
    with pytest.raises(DataError, match="no validation user has a held-out item"):
        ListValidation.of(writer, [replace(split.valid[0], item="unknown")])


def test_what_does_not_go_with_user_tokens_is_refused(
    with_users: Path, models: Make, bundle: Bundle, tmp_path: Path, examples: Make
) -> None:
    made = examples(sequence=1.0)
    with pytest.raises(UsageError, match="user_tokens must be at least 0"):
        extend_model(
            models("t5").parent / "base", bundle, tmp_path / "out", ExtendOptions(user_tokens=-1)
        )
    with pytest.raises(CompatibilityError, match="another tokenizer"):
        train(with_users, made, tmp_path / "out", **BRIEF, teachers=[models("t5")])
    with pytest.raises(UsageError, match="questions of task next-item have none"):
        evaluate_task(with_users, None, task="next-item")
    assert not (tmp_path / "out").exists()
