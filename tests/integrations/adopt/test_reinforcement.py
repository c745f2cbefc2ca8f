"""Adopted models are reinforced: the log-probabilities of the policy are those of the tokens that
the other system's tokenizer has, looked up by their text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.data.items import make_items
from sidtool.examples.examples_run import make_sft
from sidtool.examples.sft_options import SftOptions
from sidtool.integrations.adopt.adoption import adopt
from sidtool.integrations.adopt.known_prompts import AdoptOptions
from sidtool.model.contract.folder import read_contract
from sidtool.model.load import load_model_folder
from sidtool.training.reinforcement.policy import GroupScores, Policy
from sidtool.training.reinforcement.reinforcement import rl
from sidtool.training.reinforcement.settings import RlOptions
from sidtool.training.settings import TrainOptions
from sidtool.training.training import train
from tests.integrations.adopt import foreign
from tests.integrations.adopt.foreign import Foreign
from tests.integrations.adopt.test_lifecycle import SHORT, split_of

torch.set_num_threads(1)

GRPO_FIELDS: dict[str, Any] = {
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "logging_steps": 1,
    "max_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
}


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Foreign, Path, Path]:
    """MiniOneRec's model, which has tokens of used codes only, its adopted folder, and training
    examples."""
    folder = tmp_path_factory.mktemp("minionerec")
    system = foreign.minionerec(folder / "model")
    adopt(system.folder, system.map, folder / "adopted", AdoptOptions(preset="minionerec"))
    contract = read_contract(folder / "adopted")
    assert contract.token_table is not None
    assert -1 in contract.token_table.ids
    ids = tuple(system.sids)
    titles = tuple(f"film {item}" for item in ids)
    make_sft(
        load_model_folder(folder / "adopted").bundle,
        make_items(ids, titles, titles, fields={}, template="{title}"),
        split_of(list(ids)),
        folder / "train.jsonl",
        SftOptions({"next-item": 1.0}, max_length=512, history_length=4),
        model=folder / "adopted",
    )
    return system, folder / "adopted", folder / "train.jsonl"


class Oracle:
    """Scores SIDs one by one, by ordinary forward passes over the whole vocabulary. A code competes
    with the tokens of its level, or with those that continue its prefix in the map."""

    def __init__(self, system: Foreign, normalize: str) -> None:
        self.normalize = normalize
        vocabulary = system.tokenizer.get_vocab()
        self.paths = {
            tuple(vocabulary[token] for token in sid): sid for sid in system.sids.values()
        }
        self.of_level = [
            sorted(
                token_id for text, token_id in vocabulary.items() if text.startswith(f"<{level}_")
            )
            for level in "abc"
        ]

    def log_probs(self, model: Any, prompt: list[int], path: list[int]) -> list[float]:
        """Of each token of a path of token ids behind a prompt."""
        assert tuple(path) in self.paths
        logits = model(torch.tensor([prompt + path])).logits[0].double()
        scores = []
        for level, token_id in enumerate(path):
            competing = self.of_level[level]
            if self.normalize == "trie":
                before = tuple(path[:level])
                competing = sorted({each[level] for each in self.paths if each[:level] == before})
            at = logits[len(prompt) + level - 1]
            scores.append(float(at[token_id] - at[competing].logsumexp(0)))
        return scores


@pytest.mark.parametrize("normalize", ["level", pytest.param("trie", marks=pytest.mark.slow)])
def test_log_probabilities_are_those_over_the_table(
    adopted: tuple[Foreign, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    normalize: str,
) -> None:
    system, start, examples = adopted
    if normalize == "trie":
        options = TrainOptions(softmax_over="trie")
        train(start, examples, tmp_path / "tuned", options=options, sft_fields=SHORT)
        start = tmp_path / "tuned"
    oracle = Oracle(system, normalize)
    table = read_contract(start).token_table
    assert table is not None
    scored = 0
    plain = Policy.scores

    def checked(
        policy: Policy, model: Any, prompts: torch.Tensor, mask: torch.Tensor, codes: torch.Tensor
    ) -> GroupScores:
        """The scores, compared with those of the oracle under the weights of the moment."""
        nonlocal scored
        scores = plain(policy, model, prompts, mask, codes)
        for row, (ids, is_token) in enumerate(zip(prompts, mask, strict=True)):
            prompt = ids[is_token.bool()].tolist()
            for column, sid in enumerate(codes[row].tolist()):
                path = [table.codes[level][code] for level, code in enumerate(sid)]
                with torch.no_grad():
                    expected = oracle.log_probs(policy.network, prompt, path)
                actual = scores.log_probs[row, column].detach()
                np.testing.assert_allclose(actual, expected, atol=2e-3)
                scored += 1
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
    assert loaded.contract.token_table == table
    assert loaded.contract.stages[-1].stage == "rl"
    before = load_model_folder(start).model.get_input_embeddings().weight
    after = loaded.model.get_input_embeddings().weight
    used = [token_id for token_id in table.ids if token_id >= 0]
    assert (before != after)[used].any()
