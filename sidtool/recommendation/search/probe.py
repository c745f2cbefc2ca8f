"""Decides how a model is decoded, by comparing a small token tree with the model's ordinary
forward: some architectures ignore a 4-D mask, or scale each token's logit."""

from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from sidtool.base.errors import SidtoolError
from sidtool.model.structure import decoder_start_id, is_encoder_decoder
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.token_tree import TokenTree, attention_windows

DecodingMethod = Literal["sliced", "full", "generate"]
"""A token tree with a sliced head, a token tree with a full head, or no tree but `generate`."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
LOW_PRECISION_TOLERANCE = 0.1
PROBED_WINDOW = 64

_methods: WeakKeyDictionary[Any, DecodingMethod] = WeakKeyDictionary()


def decoding_method(model: Any) -> DecodingMethod:
    """The fastest method that gives this model's own logits; cached per model."""
    if model not in _methods:
        _methods[model] = _probe(model)
    return _methods[model]


@torch.no_grad()
def _probe(model: Any) -> DecodingMethod:
    methods: tuple[DecodingMethod, ...] = ("sliced", "full")
    for method in methods:
        try:
            if _agrees(model, DecodingHead(model, sliced=method == "sliced")):
                return method
        except SidtoolError:
            raise  # the model cannot be decoded at all
        except Exception:
            # an unknown architecture may raise anything on a mask or a cache it does not support
            continue
    return "generate"


def _agrees(model: Any, head: DecodingHead) -> bool:
    """Grow two small trees and compare the next logits of each path with those of the same path run
    as an ordinary prompt."""
    windows = []
    if not is_encoder_decoder(model):  # whose prompts are not behind the decoder's windows
        windows = [window for window in attention_windows(model.config) if window]
    length = 6 + min((window for window in windows if window <= PROBED_WINDOW), default=0)
    # arbitrary token ids that differ from position to position
    ids = (torch.arange(64 + 2 * length) * 7919 + 11).remainder(head.vocab_size).tolist()
    prompts = [ids[:length], ids[length : 2 * length - 2]]  # two lengths: one is padded
    # two tokens extend each prompt, then three extend those two
    first_step = torch.tensor([ids[-8:-6], ids[-6:-4]])  # (prompts, 2)
    second_step = torch.tensor([ids[-4:-1], ids[-3:]])  # (prompts, 3)
    parents = torch.tensor([[1, 0, 1], [0, 1, 1]])  # (prompts, 3)
    tree = TokenTree.of(model, prompts, capacity=5, head=head)
    tree.prefill()
    tree.step(first_step.to(model.device), torch.zeros_like(first_step).to(model.device))
    hidden = tree.step(second_step.to(model.device), parents.to(model.device))
    whole = (0, head.vocab_size)
    log_probs = head.log_probs(hidden, whole, "vocabulary")  # (prompts, 3, vocabulary)
    for row, prompt in enumerate(prompts):
        # (3, 2): each path from its prompt on
        tails = torch.stack([first_step[row][parents[row]], second_step[row]], dim=1)
        expected = _next_logits(model, torch.tensor([prompt]).expand(3, -1), tails)
        spread = max(float(expected.std()), 1e-3)
        error = float((log_probs[row] - expected.log_softmax(-1)).abs().max())
        if not error <= _tolerance(model) * spread:
            return False
    return True


def _next_logits(model: Any, prompts: torch.Tensor, tails: torch.Tensor) -> torch.Tensor:
    """(n, vocabulary) float32 logits behind (n, length) prompts and (n, depth) tails."""
    inputs = {"input_ids": torch.cat([prompts, tails], dim=1)}
    if is_encoder_decoder(model):
        starts = torch.full((len(tails), 1), decoder_start_id(model))
        inputs = {"input_ids": prompts, "decoder_input_ids": torch.cat([starts, tails], dim=1)}
    inputs = {name: ids.to(model.device) for name, ids in inputs.items()}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits[:, -1].float()


def _tolerance(model: Any) -> float:
    if torch.is_autocast_enabled(model.device.type):
        return LOW_PRECISION_TOLERANCE
    return TOLERANCE.get(model.dtype, LOW_PRECISION_TOLERANCE)
