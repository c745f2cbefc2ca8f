"""Tiny language models of each supported architecture, causal and encoder-decoder, and a tokenizer,
made in process, with weights large enough that logits differ clearly."""

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from sidtool.base.documents import SEAL
from sidtool.model.network.structure import vocabulary_layers

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "gpt2", "gpt_neox")
ENCODER_DECODERS = ("t5", "mt5", "umt5", "bart")
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


def unsigned(folder: Path, **changes: Any) -> None:
    """Change keys of a model's contract, and make it one that records no digests of its files and
    none of itself, as those before 0.3."""
    value = json.loads((folder / "sid.json").read_text(encoding="utf-8")) | changes
    members = {key: member for key, member in value.items() if key not in ("files", SEAL)}
    (folder / "sid.json").write_text(json.dumps(members), encoding="utf-8")


def tiny_model(
    architecture: str, *, vocab_size: int, tied: bool = True, seed: int = 0, **overrides: Any
) -> Any:
    """A random causal language model: width 32, 2 layers, fp32, in eval mode.

    Mistral and Gemma3 have sliding windows of 8 tokens, so that a test's prompt reaches past them;
    GPT-2 has absolute positions, GPT-NeoX turns half of each head; Qwen2, GPT-2 and GPT-NeoX have
    biases. `overrides` go to the configuration. The same arguments give the same weights, whatever
    random state the caller is in."""
    shape: dict[str, Any] = {"vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"head_dim": 8, "max_position_embeddings": 512, "tie_word_embeddings": tied}
    shape |= {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    extras: dict[str, dict[str, Any]] = {
        "mistral": {"sliding_window": 8},
        "gemma3": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        "gpt_neox": {"rope_parameters": rope},
        "gpt2": {"n_inner": 48, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    }
    unknown = {"qwen2": ["head_dim"], "gpt_neox": ["head_dim", "num_key_value_heads"]}
    unknown["gpt2"] = [*unknown["gpt_neox"], "intermediate_size"]
    for name in unknown.get(architecture, ()):
        del shape[name]
    name = {"gemma3": "gemma3_text"}.get(architecture, architecture)
    config = AutoConfig.for_model(name, **{**shape, **extras.get(architecture, {}), **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _scale_up(model)
    return model.eval()


def tiny_encoder_decoder(
    architecture: str, *, vocab_size: int, tied: bool = True, seed: int = 0, **overrides: Any
) -> Any:
    """A random encoder-decoder: width 32, 2 + 2 layers, fp32, in eval mode.

    The head of a tied T5 or UMT5 is scaled, all of the T5 family have relative positions, whose
    buckets a test's prompt fills; BART has absolute ones, and a bias of its logits. An untied BART
    also has separate embeddings in encoder and decoder."""
    shape: dict[str, Any] = {"vocab_size": vocab_size, "d_model": 32, "tie_word_embeddings": tied}
    shape |= {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    shape["decoder_start_token_id"] = PAD
    if not architecture.endswith("t5"):
        heads = {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
        layers = {f"{part}_layers": 2 for part in ("encoder", "decoder")}
        widths = {f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")}
        extra = {**heads, **layers, **widths, "max_position_embeddings": 512, "dropout": 0.0}
        extra |= {"decoder_start_token_id": EOS, "scale_embedding": True}
    else:
        extra = {"num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48, "dropout_rate": 0.0}
        extra |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
    config = AutoConfig.for_model(architecture, **{**shape, **extra, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
        if not tied:
            # the configurations of the T5 family cannot say so: their checkpoints do
            head = model.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
        _scale_up(model)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.5)
    return model.eval()


@torch.no_grad()
def greedy(model: Any, prompt: list[int], length: int, stops: Collection[int]) -> list[int]:
    """The most likely tokens behind a prompt up to one of `stops`, one forward pass each and no
    cache."""
    written: list[int] = []
    while len(written) < length:
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            inputs = {"input_ids": prompt, "decoder_input_ids": [start, *written]}
        else:
            inputs = {"input_ids": [*prompt, *written]}
        tensors = {name: torch.tensor([ids]) for name, ids in inputs.items()}
        token = int(model(**tensors).logits[0, -1].argmax())
        if token in stops:
            break
        written.append(token)
    return written


def _scale_up(model: Any) -> None:
    """Draw every matrix and bias anew, large enough that both attention and logits are far from
    uniform."""
    embeddings = {id(layer.weight) for layer in vocabulary_layers(model)}
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
