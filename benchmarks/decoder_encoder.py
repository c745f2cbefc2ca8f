"""The decoder with an encoder-decoder model: a part of decoder.py."""

from dataclasses import dataclass
from typing import Any

from decoder_cases import LEVELS, catalog, medians, prompts_of, trie_and_tokens
from decoder_sides import check_results, prefix_function, run_beam, run_generate

VOCABULARY = 32_128
TEXT = 31_000


@dataclass(frozen=True)
class T5Shape:
    """The model, that of T5 small unless given, and the requests."""

    width: int = 512
    layers: int = 6
    num_beams: int = 50
    batches: tuple[int, ...] = (1, 4, 16)


def encoder_decoder(repeats: int, items: int, shape: T5Shape) -> dict[str, Any]:
    """For one request and for batches, which take fewer repeats: speed-up over `generate` with a
    prefix function, and the decoder's seconds over those of the bare forward passes."""
    codes = catalog(items)
    trie, tokens = trie_and_tokens(codes, TEXT)
    allowed = prefix_function(codes, TEXT, start=1)
    model = t5(shape)
    beams = shape.num_beams
    figures = {"encoder_decoder_parameters": sum(weight.numel() for weight in model.parameters())}
    for n in shape.batches:
        name = f"batch{n}"
        prompts = prompts_of(n, TEXT)
        generated = run_generate(model, prompts, beams, allowed)
        check_results(generated, model, prompts, beams, trie, tokens, codes)
        slow, encoding, bare, fast = medians(
            max(repeats // n, min(2, repeats)),
            lambda: run_generate(model, prompts, beams, allowed),
            lambda: encode(model, prompts),
            lambda: run_floor(model, prompts, beams),
            lambda: run_beam(model, prompts, beams, trie, tokens, "level"),
        )
        figures |= {
            f"encoder_decoder_{name}_speedup": slow / fast,
            f"encoder_decoder_{name}_over_floor": fast / bare,
            f"encoder_decoder_{name}_speedup_of_floor": slow / bare,
            f"encoder_decoder_{name}_speedup_of_encoding": slow / encoding,
            f"encoder_decoder_{name}_seconds": fast,
        }
    return figures


def t5(shape: T5Shape) -> Any:
    """A random T5 in the shape of T5 small: 60 M parameters, 16 M of them embeddings."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=shape.width,
        d_ff=4 * shape.width,
        num_layers=shape.layers,
        num_heads=shape.width // 64,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


def encode(model: Any, prompts: list[list[int]]) -> Any:
    """The encoder's forward pass alone: what no decoder can do without."""
    import torch

    with torch.no_grad():
        return model.encoder(input_ids=torch.tensor(prompts)).last_hidden_state


def run_floor(model: Any, prompts: list[list[int]], width: int) -> None:
    """Forward passes of transformers without head or search: the encoder, the decoder's first
    token, and L - 1 passes of W tokens with a cache."""
    import torch

    encoded = encode(model, prompts)
    with torch.no_grad():
        cache = None
        for tokens in [1] + [width] * (len(LEVELS) - 1):
            ids = torch.full((len(prompts), tokens), 7)
            output = model.decoder(
                input_ids=ids, encoder_hidden_states=encoded, cache=cache, use_cache=True
            )
            cache = output.cache
