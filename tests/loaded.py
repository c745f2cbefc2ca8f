"""A tiny random model with tokenizer, contract and bundle, in memory, as the loader returns it."""

from dataclasses import replace
from typing import Any

from sidtool.model import LoadedModel
from sidtool.model.contract import Contract, Verdict
from sidtool.model.prompt import HistoryPrompt, TextPrompt
from sidtool.tokenizer.bundle import Bundle
from tests.models import ENCODER_DECODERS, tiny_encoder_decoder, tiny_model, tiny_tokenizer

HISTORY_PROMPT = HistoryPrompt("next-item", "The history: {history}\nNext:", 5, 200)


def loaded_model(
    bundle: Bundle,
    architecture: str = "llama",
    *,
    history_prompt: HistoryPrompt | None = HISTORY_PROMPT,
    text_prompt: TextPrompt | None = None,
) -> LoadedModel:
    """A random model of a bundle, with its SID tokens behind those of a tiny tokenizer."""
    tokenizer = tiny_tokenizer()
    start = len(tokenizer)
    tokenizer.add_tokens(list(bundle.space.tokens))
    has_encoder = architecture in ENCODER_DECODERS
    contract = Contract(
        bundle.identity,
        bundle.space,
        start,
        "tiny",
        None,
        {},
        (),
        history_prompt=history_prompt,
        text_prompt=text_prompt,
        kind="encoder-decoder" if has_encoder else "causal",
    )
    make_model = tiny_encoder_decoder if has_encoder else tiny_model
    model = make_model(architecture, vocab_size=len(tokenizer))
    return LoadedModel(model, tokenizer, contract, bundle, Verdict("same"))


def with_prompts(
    loaded: LoadedModel,
    *,
    history_prompt: HistoryPrompt | None = None,
    text_prompt: TextPrompt | None = None,
) -> LoadedModel:
    """The same model with other prompts in its contract."""
    contract: Any = replace(loaded.contract, history_prompt=history_prompt, text_prompt=text_prompt)
    return replace(loaded, contract=contract)
