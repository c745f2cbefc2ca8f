"""Tiny causal language models of each supported architecture and a tokenizer, made in process, with
weights large enough that logits differ clearly."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "gpt2", "gpt_neox")
PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] "
    "}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = (
    "The user has bought these items in this order: a red lipstick, a hair dryer and two "
    "bottles of shampoo.",
    "Which item comes next? Recommend the next item from the history, and answer with its "
    "semantic ID.",
    "Toy Story (1995) is a film for children; Twelve Monkeys and The Usual Suspects are thrillers.",
    "title: Moisturizing cream, brand: Nivea, category: Beauty > Skin care. Description: 250 "
    "ml, for dry skin.",
)


def tiny_model(
    architecture: str, *, vocab_size: int, tied: bool = True, seed: int = 0, **overrides: Any
) -> Any:
    """A random causal language model: width 32, 2 layers, fp32, in eval mode.

    Mistral and Gemma3 have sliding windows of 8 tokens, so that a test's prompt reaches past them;
    GPT-2 has absolute positions, GPT-NeoX turns half of each head; Qwen2, GPT-2 and GPT-NeoX have
    biases. `overrides` go to the configuration. The same arguments give the same weights, whatever
    random state the caller is in."""
    shape: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    own: dict[str, dict[str, Any]] = {
        "mistral": {"sliding_window": 8},
        "gemma3": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        "gpt_neox": {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        },
        "gpt2": {"n_inner": 48, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    }
    if architecture == "gpt2":
        del shape["num_key_value_heads"], shape["head_dim"], shape["intermediate_size"]
    if architecture == "gpt_neox":
        del shape["num_key_value_heads"], shape["head_dim"]
    if architecture == "qwen2":
        del shape["head_dim"]
    name = {"gemma3": "gemma3_text"}.get(architecture, architecture)
    config = AutoConfig.for_model(name, **{**shape, **own.get(architecture, {}), **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _scale_up(model)
    return model.eval()


def _scale_up(model: Any) -> None:
    """Draw every matrix and bias anew, large enough that both attention and logits are far from
    uniform."""
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            spread = 0.4 if id(parameter) in embeddings else 1.5 * parameter.shape[-1] ** -0.5
            torch.nn.init.normal_(parameter, std=spread)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)


def tiny_tokenizer(*, chat: bool = False) -> Any:
    """A byte-level BPE tokenizer, a fresh copy: `<pad>` 0, `<bos>` 1, `<eos>` 2, `<|im_start|>` 3,
    `<|im_end|>` 4."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return str(tokenizer.to_str())
