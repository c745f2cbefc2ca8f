"""The steps that every search shares: batches of prompts whose token trees grow level by level.
Some architectures ignore a 4-D mask, or scale each token's logit: how a model is decoded is decided
by comparing a small token tree with its ordinary forward.

A kind of search says how the children of the prefixes so far are ranked (`Search`): beam search by
scores, lists by those of partial lists. `Decoder.grow` does the rest."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch

from sidtool.base.errors import SidtoolError, UsageError, first_line
from sidtool.model.network import check_positions, decoder_start_id, is_encoder_decoder
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search.architectures import PATCHING, attention_windows
from sidtool.recommendation.search.columns import token_columns
from sidtool.recommendation.search.device_trie import TrieArrays, normalize_over_children
from sidtool.recommendation.search.kernels import fast_linear, grouped_keys
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.results import Normalize, check_scores
from sidtool.recommendation.search.token_tree import TokenTree

DecodingMethod = Literal["sliced", "full"]
"""A token tree with a sliced head, or with a full head."""

TOLERANCE = 1e-3
LOW_PRECISION_TOLERANCE = 0.1
PROBED_WINDOW = 64
PROBE_STRIDES = (7919, 6101, 4507)
"""Primes: the distances between the ids of the tokens of a probe."""

_methods: WeakKeyDictionary[Any, DecodingMethod | None] = WeakKeyDictionary()
_failures: WeakKeyDictionary[Any, Exception] = WeakKeyDictionary()
"""Why no method decodes a model, if it is an error."""

TOKEN_BUDGET = 1 << 14
"""Tokens, prompts and trees together, that run in one batch."""

MAX_TREE_TOKENS = 1 << 14
"""Tokens of one prompt's tree: its attention mask has the square of this number of values."""


FEWER_BEAMS = "lower -k and --num-beams; --candidates scores any number of items exactly"


class Search(Protocol):
    """What one kind of search knows of a batch."""

    def rank(
        self, level: int, nodes: torch.Tensor, valid: torch.Tensor, log_probs: torch.Tensor
    ) -> torch.Tensor:
        """(batch, beams, fan-out): what the best children of the prefixes so far are chosen by,
        minus infinity for those that may not be. Of the same shape are the nodes of the children,
        padded to the level's largest fan-out, whether each is none of the padding, and the
        log-probability of its code."""

    def follow(
        self, level: int, nodes: torch.Tensor, ranks: torch.Tensor, best: torch.Tensor
    ) -> None:
        """Go on with the best children of a level, (batch, new beams) each: their nodes and ranks,
        and their indexes among the beams * fan-out children."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A model in eval mode, whose answers grow as token trees."""

    model: Any
    head: DecodingHead

    @classmethod
    def of(cls, model: Any, refusal: str) -> "Decoder":
        """Raises UsageError, which says what is refused, if no mask steers the model."""
        method = require_mask(model, refusal)
        return cls(model, DecodingHead(model, sliced=method == "sliced"))

    @classmethod
    def find(cls, model: Any) -> "Decoder | None":
        """None if no mask steers the model."""
        return None if decoding_method(model) is None else cls.of(model, "")

    def trees(
        self, prompts: Sequence[Sequence[int]], capacity: int, token_budget: int = TOKEN_BUDGET
    ) -> Iterator[tuple[list[int], TokenTree]]:
        """The indexes of the prompts of each batch, and trees that grow on them, up to so many
        tokens each; empty prompts are left out."""
        for batch in batches([len(prompt) for prompt in prompts], capacity, token_budget):
            batch_prompts = [prompts[index] for index in batch]
            yield batch, TokenTree(self.model, batch_prompts, capacity=capacity, head=self.head)

    def grow(
        self,
        tree: TokenTree,
        search: Search,
        trie: TrieArrays,
        tokens: SidTokens,
        normalize: Normalize,
        widths: Sequence[int],
        *,
        n_items: int = 1,
        between: Sequence[int] = (),
    ) -> torch.Tensor:
        """Grow the trees of a batch by one SID, or by `n_items` with the tokens `between` two of
        them; (batch, beams) leaves of the last. `widths` are the beams after each level."""
        columns = token_columns(tokens, trie.device)
        hidden = tree.prefill()  # (batch, 1, dim)
        nodes = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)  # the root
        root = None  # hidden states whose normalizers are still to be subtracted
        joins_passes = normalize == "vocabulary" and self.head.is_sliced and trie.levels > 1
        for item in range(n_items):
            for level, level_columns in enumerate(columns.levels):
                if joins_passes and item == level == 0:
                    # the beams of a prompt share this normalizer, which does not change their
                    # order: one pass over the vocabulary computes it and those of the next level
                    log_probs = self.head.logits(hidden, level_columns.columns)
                    root = hidden
                elif root is not None:
                    normalizers = self.head.normalizers(torch.cat([root, hidden], dim=1))
                    log_probs = self.head.logits(hidden, level_columns.columns)
                    log_probs -= normalizers[:, :1] + normalizers[:, 1:]
                    root = None
                else:
                    log_probs = self.head.log_probs(hidden, level_columns.columns, normalize)
                # (batch, beams, fan-out) each
                children, codes, valid = trie.candidates(level, nodes)
                log_probs = log_probs.gather(-1, level_columns.places(codes))
                if normalize == "trie":
                    log_probs = normalize_over_children(log_probs, valid)
                # (batch, beams * fan-out)
                ranks = search.rank(level, children, valid, log_probs).flatten(1)
                ranks, best = ranks.topk(min(widths[level], ranks.shape[1]))  # (batch, beams)
                nodes = children.flatten(1).gather(1, best)
                codes = codes.flatten(1).gather(1, best)
                parents = best // children.shape[-1]
                search.follow(level, nodes, ranks, best)
                if level < trie.levels - 1:
                    hidden = tree.step(level_columns.ids(codes), parents)  # (batch, beams, dim)
            if item < n_items - 1:
                ids = level_columns.ids(codes).unsqueeze(-1)
                ends = torch.tensor(between, dtype=ids.dtype, device=ids.device)
                # (batch, beams, 1 + between)
                ids = torch.cat([ids, ends.expand(*ids.shape[:2], -1)], dim=-1)
                hidden = tree.step(ids, parents)
                tree.prune()
                nodes = torch.zeros_like(nodes)
        return nodes


@contextmanager
def evaluation_mode(
    model: Any, prompts: Sequence[Sequence[int]] = (), n_answer: int = 0
) -> Iterator[Any]:
    """Yield the bare model in eval mode; afterwards every module's mode is restored.

    The wrapper of an adapter is removed (its layers stay). Linear layers run on the faster of this
    machine's libraries. Raises DataError if one of the `prompts`, with `n_answer` tokens behind it,
    is longer than the model's positions."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    training_modules = [module for module in bare.modules() if module.training]
    if training_modules:
        bare.eval()
    try:
        with fast_linear(bare), grouped_keys():
            check_positions(bare, max(map(len, prompts), default=0), n_answer)
            yield bare
    finally:
        for module in training_modules:
            module.training = True


def require_mask(model: Any, refusal: str) -> DecodingMethod:
    """How a model is decoded. Raises UsageError, which says what is refused, if no mask steers its
    attention."""
    method = decoding_method(model)
    if method is None:
        failure = _failures.get(model)
        reason = f" ({first_line(failure)})" if failure is not None else ""
        raise UsageError(
            f"{type(model).__name__} does not support a 4-D attention mask{reason}: {refusal}",
            hint="SidLogitsProcessor constrains its own `generate`",
        ) from failure
    return method


def tree_tokens(num_beams: int, length: int, answers: str, hint: str = FEWER_BEAMS) -> int:
    """The most tokens of one prompt's tree, `length` of each beam. Raises UsageError if the tree
    would take gigabytes of memory, which says for which `answers`."""
    if num_beams * length > MAX_TREE_TOKENS:
        raise UsageError(
            f"{num_beams} beams are too many: {MAX_TREE_TOKENS // length} fit into memory with "
            f"{answers}",
            hint=hint,
        )
    return num_beams * length


def batches(lengths: Sequence[int], tree_tokens: int, token_budget: int) -> Iterator[list[int]]:
    """Group prompts of similar length, given by index, longest first; empty prompts are left out.

    A batch holds as many prompts as fit: its longest prompt plus `tree_tokens`, times the number of
    prompts, is at most `token_budget`. A single prompt may exceed it."""
    nonempty = [index for index in range(len(lengths)) if lengths[index]]
    batch: list[int] = []
    for index in sorted(nonempty, key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * (lengths[batch[0]] + tree_tokens) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def decoding_method(model: Any) -> DecodingMethod | None:
    """The fastest method that gives this model's own logits, None if no tree does; cached per
    model."""
    if model not in _methods:
        with PATCHING:
            _methods[model] = _probe(model)
    return _methods[model]


@torch.no_grad()
def _probe(model: Any) -> DecodingMethod | None:
    """The first method whose log-probabilities are those of the model's ordinary forward, on one of
    three probes: behind a few tokens a model may round so coarsely that none repeats it, and what
    is wrong in a tree is wrong behind all."""
    fastest_first: tuple[DecodingMethod, ...] = ("sliced", "full")
    for method in fastest_first:
        try:
            head = DecodingHead(model, sliced=method == "sliced")
            if any(_agrees(model, head, stride) for stride in PROBE_STRIDES):
                return method
        except SidtoolError:
            raise  # the model cannot be decoded at all
        except Exception as failure:
            # an unknown architecture may raise anything on a mask or a cache it does not support
            _failures[model] = failure
    return None


def _ordinary_logits(model: Any, prompt: Sequence[int], tails: torch.Tensor) -> torch.Tensor:
    """(1 + n, vocabulary) float32: the logits behind a prompt, and behind each of its (n, 2) tails,
    all read as whole sequences."""
    starts = torch.tensor([prompt]).expand(len(tails), -1)
    inputs = {"input_ids": torch.cat([starts, tails], dim=1)}
    if is_encoder_decoder(model):
        before = torch.full((len(tails), 1), decoder_start_id(model))
        inputs = {"input_ids": starts, "decoder_input_ids": torch.cat([before, tails], dim=1)}
    inputs = {name: ids.to(model.device) for name, ids in inputs.items()}
    logits = model(**inputs, use_cache=False).logits  # (n, tokens, vocabulary)
    behind_prompt = logits[:1, -3]  # the same with every tail
    return torch.cat([behind_prompt, logits[:, -1]]).float()


def _agrees(model: Any, head: DecodingHead, stride: int) -> bool:
    """Grow two small trees and compare the next logits of each path with those of the same path run
    as an ordinary prompt. Raises DataError if these are NaN."""
    windows = []
    if not is_encoder_decoder(model):  # whose prompts are not behind the decoder's windows
        windows = [window for window in attention_windows(model.config) if window]
    # longer than the smallest window, which then hides something
    length = 6 + min((window for window in windows if window <= PROBED_WINDOW), default=0)
    is_exact = model.dtype in (torch.float32, torch.float64)
    is_exact = is_exact and not torch.is_autocast_enabled(model.device.type)
    tolerance = TOLERANCE if is_exact else LOW_PRECISION_TOLERANCE
    # arbitrary token ids that differ from position to position
    ids = (torch.arange(64 + 2 * length) * stride + 11).remainder(head.vocab_size).tolist()
    prompts = [ids[:length], ids[length : 2 * length - 2]]  # two lengths: one is padded
    # two tokens extend each prompt, then three extend those two
    first_step = torch.tensor([ids[-8:-6], ids[-6:-4]])  # (prompts, 2)
    second_step = torch.tensor([ids[-4:-1], ids[-3:]])  # (prompts, 3)
    parents = torch.tensor([[1, 0, 1], [0, 1, 1]])  # (prompts, 3)
    tree = TokenTree(model, prompts, capacity=5, head=head)
    at_ends = tree.prefill()  # (prompts, 1, dim)
    tree.step(first_step.to(model.device), torch.zeros_like(first_step).to(model.device))
    hidden = tree.step(second_step.to(model.device), parents.to(model.device))
    hidden = torch.cat([at_ends, hidden], dim=1)  # (prompts, 4, dim)
    log_probs = head.log_probs(hidden, (0, head.vocab_size), "vocabulary")
    for row, prompt in enumerate(prompts):
        # (3, 2): each path from its prompt on
        tails = torch.stack([first_step[row][parents[row]], second_step[row]], dim=1)
        expected = _ordinary_logits(model, prompt, tails)
        check_scores(expected.cpu().numpy())
        spread = max(float(expected.std()), 1e-3)
        error = float((log_probs[row] - expected.log_softmax(-1)).abs().max())
        if not error <= tolerance * spread:
            return False
    return True
