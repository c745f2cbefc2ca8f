"""A real engine of vLLM with the plug-in, on a tiny model (`make test-engines`)."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.integrations.vllm.engine import engine_arguments, engine_model
from sidtool.model import LoadedModel, load_model_folder
from sidtool.recommendation import QuerySession, RecommendOptions, Request, recommend
from tests.bundles import small_bundle
from tests.integrations.vllm.cases import save_model

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

NUM_BEAMS = 12
SIZES = (4, 12, 6)
REQUESTS = [
    Request("a", ("i1", "i2")),
    Request("b", ("i3",), deny=("i4", "i5", "i6")),
    Request("c", ("i7",), allow=tuple(f"i{row}" for row in range(9))),
    Request("d", tuple(f"i{row}" for row in range(20, 24))),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a table of token ids; the benchmark's has a block."""
    out = tmp_path_factory.mktemp("engine") / "model"
    return save_model(out, small_bundle(60, SIZES), layout="table")


@pytest.fixture(scope="module")
def own(folder: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model_folder(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Any:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # one process: three would import everything three times, and a busy machine lets calls time out
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM

    return LLM(
        str(folder),
        **engine_arguments(folder, num_beams=NUM_BEAMS),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=64,
        enforce_eager=True,
    )


def test_recommendations_are_those_of_sidtools_decoder(llm: Any, own: LoadedModel) -> None:
    options = RecommendOptions(k=6, num_beams=NUM_BEAMS, exclude_seen=True)
    want = list(recommend(own, REQUESTS, options))
    answers = list(recommend(engine_model(llm), REQUESTS, options))
    for answer, other in zip(answers, want, strict=True):
        assert (answer.items, answer.scores) == (other.items, pytest.approx(other.scores, abs=1e-3))
        assert len(answer.items) == 6 or other.missing


def test_vllms_own_beam_search_is_constrained(llm: Any, own: LoadedModel) -> None:
    from vllm.sampling_params import BeamSearchParams

    session = QuerySession.of(own)
    prompts = [session.from_history(own.bundle.items.rows(request.history)) for request in REQUESTS]
    params = BeamSearchParams(beam_width=NUM_BEAMS, max_tokens=len(SIZES), ignore_eos=True)
    outputs = llm.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], params)
    options = RecommendOptions(k=NUM_BEAMS, num_beams=NUM_BEAMS)
    plain = [Request(request.user, request.history) for request in REQUESTS]
    for output, answer in zip(outputs, recommend(own, plain, options), strict=True):
        ids = np.array([beam.tokens[-len(SIZES) :] for beam in output.sequences])
        sids = [own.bundle.space.spell(codes) for codes in own.tokens.codes(ids)]
        assert sids == list(answer.sids)
        scores = [beam.cum_logprob for beam in output.sequences]
        assert scores == pytest.approx(answer.scores, abs=1e-3)


def test_samples_are_valid_sids_that_the_request_allows(llm: Any, own: LoadedModel) -> None:
    from vllm import SamplingParams

    items = own.bundle.items
    prompt = QuerySession.of(own).from_history(items.rows(("i1", "i2")))
    denied = [f"i{row}" for row in range(40)]
    length = len(SIZES) + 2
    params = [
        SamplingParams(
            n=8, seed=seed, temperature=2.0, max_tokens=2 * length, extra_args={"sid_deny": denied}
        )
        for seed in range(4)
    ]
    outputs = llm.generate([{"prompt_token_ids": prompt}] * 4, params, use_tqdm=False)
    allowed = {
        tuple(items.codes[row].tolist()) for row in range(60) if items.ids[row] not in denied
    }
    seen = set()
    for output in outputs:
        for sample in output.outputs:
            # the first SID has its begin token in the prompt
            ids = np.array([own.tokens.begin, *sample.token_ids][: 2 * length]).reshape(2, length)
            assert set(ids[:, 0].tolist()) == {own.tokens.begin}
            assert set(ids[:, -1].tolist()) == {own.tokens.end}
            codes = own.tokens.codes(ids[:, 1:-1])
            seen |= {tuple(sid) for sid in codes.tolist()}
    assert seen <= allowed
    assert len(seen) > 3


def test_a_request_can_leave_the_constraint(llm: Any, own: LoadedModel) -> None:
    from vllm import SamplingParams

    prompt = {"prompt_token_ids": [9, 8, 7]}
    answers = []
    for extra_args in (None, {"sid_constraint": False}):
        params = SamplingParams(temperature=0.0, max_tokens=1, extra_args=extra_args)
        (output,) = llm.generate([prompt], params, use_tqdm=False)
        answers.append(output.outputs[0].token_ids[0])
    with torch.no_grad():
        logits = own.model(torch.tensor([[9, 8, 7]])).logits[0, -1]
    assert answers == [own.tokens.begin, int(logits.argmax())]
    with pytest.raises(Exception, match="no extra argument 'sid_denied'"):
        llm.generate([prompt], SamplingParams(extra_args={"sid_denied": []}), use_tqdm=False)


def test_the_benchmark_runs_all_sides(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "engines.py"
    sizes = ("--quick", "--dtypes", "float32", "--widths", "4", "--batches", "2")
    sides = "level,vocabulary,generate,vllm,vllm-constrained,vllm-recommend,vllm-structured"
    options = (*sizes, "--sides", sides, "--repeats", "1")
    command = [sys.executable, script, "-o", tmp_path, *options]
    # it has three engines, which one process cannot hold
    subprocess.run(command, check=True, env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
    (measured,) = json.loads((tmp_path / "result.json").read_text())["settings"].values()
    assert len(measured) == 7
    # a grammar is applied to the most probable tokens, few of which are SID tokens
    assert 0 < measured.pop("vllm-structured")["illegal_share"] <= 1
    for side, figures in measured.items():
        # a random model without a constraint writes hardly any SID of the catalog
        assert figures["illegal_share"] == (pytest.approx(1, abs=0.2) if side == "vllm" else 0)
    assert measured["vllm-constrained"]["agreement"] == 1
    assert measured["vllm-recommend"]["agreement"] == 1
