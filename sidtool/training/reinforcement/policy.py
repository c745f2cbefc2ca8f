"""Log-probabilities of groups of SIDs under a model, with a gradient.

A group is a tree: one prompt, and each of its SIDs as a chain behind it that attends to the prompt
and to itself. The prompt so runs once per group and not once per SID. With an encoder-decoder the
tree grows on the token that the decoder starts with, behind the encoded prompt. Logits are computed
for the columns of each level only, and normalized as the model is decoded.

A list is an ordinary sequence behind its prompt, as in training. Its logits are computed at the
tokens before its codes only."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple, Self

import torch
from torch.nn.utils.rnn import pad_sequence

from sidtool.model.network import decoder_start_id, is_encoder_decoder
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search import (
    Normalize,
    Part,
    PartialHead,
    TreePositions,
    require_mask,
    token_columns,
    trie_arrays,
)
from sidtool.tokenizer.bundle import Trie
from sidtool.training.loss.probes import narrows_exactly, part_logits


class GroupScores(NamedTuple):
    """Of n groups of C SIDs with L codes."""

    log_probs: torch.Tensor
    """(n, C, L) float32: of each code after its prefix"""
    entropies: torch.Tensor
    """(n, C, L) float32: of the distribution that the code was drawn from"""


@dataclass(frozen=True, eq=False)
class Policy:
    """A model as a distribution over the SIDs of a catalog."""

    tokens: SidTokens
    trie: Trie
    head: PartialHead
    normalize: Normalize
    narrow: bool
    """whether the head computes a range of columns exactly"""
    decoder_start: int | None
    """the token that the decoder behind an encoder starts with; None for a causal model"""
    positions: TreePositions
    network: Any
    """the model itself, whatever wrapper of it `scores` is given"""

    @classmethod
    def of(cls, model: Any, tokens: SidTokens, trie: Trie, normalize: Normalize) -> Self:
        """Install a partial head in the model, which behaves as before outside of the methods here.

        Raises UsageError if the model's attention cannot be steered."""
        require_mask(model, "it cannot be trained on groups")
        head = PartialHead(model).install()
        has_encoder = is_encoder_decoder(model)
        decoder = model.get_decoder() if has_encoder else model.base_model
        return cls(
            tokens=tokens,
            trie=trie,
            head=head,
            normalize=normalize,
            narrow=narrows_exactly(model, head, token_columns(tokens, model.device).all_codes),
            decoder_start=decoder_start_id(model) if has_encoder else None,
            positions=TreePositions(decoder),
            network=model,
        )

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """(..., levels) token ids of SIDs -> (..., levels) codes."""
        return token_columns(self.tokens, ids.device).locate(ids)[1]

    def scores(
        self,
        model: Callable[..., Any],
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        codes: torch.Tensor,
    ) -> GroupScores:
        """The scores of n groups of C SIDs with (n, C, L) codes; every SID is in the trie.

        `prompt_ids` are (n, P) token ids padded on the left, `prompt_mask` (n, P) has 1 for a token
        and 0 for padding. `model` is the model itself or a wrapper of it that distributes it."""
        depths: list[int] | None = None
        if self.decoder_start is None:
            inputs = self._inputs(prompt_ids, prompt_mask, codes)
            parts = self._parts(prompt_ids.shape[1], codes)
        else:
            # the decoder reads the trees, on its start token in place of the prompt
            starts = torch.full_like(prompt_ids[:, :1], self.decoder_start)
            trees = self._inputs(starts, torch.ones_like(starts), codes)
            parts = self._parts(1, codes)
            depths = trees["position_ids"][0].tolist()  # those of every tree
            # the encoder's absolute positions count from the first token: padding goes to the right
            order = prompt_mask.sort(dim=1, descending=True, stable=True).indices
            inputs = {
                "input_ids": prompt_ids.gather(1, order),
                "attention_mask": prompt_mask.gather(1, order),
                "decoder_input_ids": trees["input_ids"],
                "decoder_attention_mask": trees["attention_mask"],
            }
            if "decoder_position_ids" in signature(self.network.forward).parameters:
                inputs["decoder_position_ids"] = trees["position_ids"]

        with ExitStack() as contexts:
            if depths is not None:
                contexts.enter_context(self.positions.in_recomputation(self.network, depths))
                contexts.enter_context(self.positions.at(depths, depths))
            level_logits = part_logits(model, self.head, inputs, parts, narrow=self.narrow)
        return self._walk(level_logits, codes)

    def _walk(self, level_logits: Sequence[torch.Tensor], codes: torch.Tensor) -> GroupScores:
        """The scores of (n, C, L) codes by the logits of each level, from the root."""
        n, chains, _ = codes.shape
        arrays = trie_arrays(self.trie, codes.device)
        columns = token_columns(self.tokens, codes.device)
        nodes = torch.zeros(n, 1, dtype=torch.long, device=codes.device)  # the root
        log_probs = []
        entropies = []
        for level, flat_logits in enumerate(level_logits):
            # what all chains share has 1 in place of C: the nodes and the logits of the first level
            logits = flat_logits.float().view(n, -1, flat_logits.shape[-1])  # (n, C, columns)
            children, child_codes, valid = arrays.candidates(level, nodes)  # (n, C, fan-out)
            matches = valid & (child_codes == codes[..., level].unsqueeze(-1))
            place = matches.int().argmax(-1, keepdim=True)  # (n, C, 1): of the child with the code
            if self.normalize == "trie":
                places = columns.levels[level].places(child_codes)
                competing = logits.gather(-1, places).masked_fill(~valid, -torch.inf)
                logs = competing.log_softmax(-1)
                column = place
            else:
                logs = logits.log_softmax(-1)
                column = columns.levels[level].places(codes[..., level]).unsqueeze(-1)
            # 0 in place of minus infinity: the gradient of 0 * log 0 would be NaN
            entropy = -(logs.exp() * logs.masked_fill(logs == -torch.inf, 0.0)).sum(-1)
            entropies.append(entropy.expand(n, chains))
            log_probs.append(logs.expand(-1, chains, -1).gather(-1, column).squeeze(-1))
            nodes = children.expand(-1, chains, -1).gather(-1, place).squeeze(-1)
        return GroupScores(torch.stack(log_probs, dim=-1), torch.stack(entropies, dim=-1))

    def _inputs(
        self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, codes: torch.Tensor
    ) -> dict[str, Any]:
        """Token ids, positions and mask of the trees; nothing follows the last code of a chain."""
        n, chains, levels = codes.shape
        length = levels - 1
        device = prompt_ids.device
        columns = token_columns(self.tokens, device)
        chain_ids = columns.ids(codes[..., :-1]).reshape(n, chains * length)
        depth = torch.arange(length, device=device).repeat(chains)  # (chains * length,)
        chain = torch.arange(chains, device=device).repeat_interleave(length)
        prompt_mask = prompt_mask.bool()
        prompt_positions = (prompt_mask.cumsum(-1) - 1).clamp_min(0)  # (n, P)
        chain_positions = prompt_mask.sum(-1, keepdim=True) + depth
        positions = torch.cat([prompt_positions, chain_positions], dim=1)  # (n, T)
        width = prompt_ids.shape[1]
        not_later = torch.ones(width, width, device=device).tril().bool()
        same_chain = (chain[:, None] == chain) & (depth[:, None] >= depth)
        total = width + chains * length
        # (n, T, T): the prompt attends to itself, chains to the prompt and each to itself
        visible = torch.zeros(n, total, total, dtype=torch.bool, device=device)
        visible[:, :width, :width] = not_later & prompt_mask[:, None, :]
        visible[:, width:, :width] = prompt_mask[:, None, :]
        visible[:, width:, width:] = same_chain
        distances = positions[:, :, None] - positions[:, None, :]
        return {
            "input_ids": torch.cat([prompt_ids, chain_ids], dim=1),
            "position_ids": positions,
            "attention_mask": self.positions.mask(visible, distances),
        }

    def _parts(self, prompt_length: int, codes: torch.Tensor) -> list[Part]:
        """The positions in the flattened batch, and the columns, of the logits of each level: those
        of the first one behind the prompt, those of others behind the code before."""
        n, chains, levels = codes.shape
        device = codes.device
        length = levels - 1  # of a chain: nothing follows its last code
        total = prompt_length + chains * length
        first = torch.arange(n, device=device) * total + prompt_length  # token of the first chain
        chain_starts = first[:, None] + torch.arange(chains, device=device) * length  # (n, C)
        level_columns = token_columns(self.tokens, device).levels
        parts: list[Part] = [(first - 1, level_columns[0].columns)]
        for level in range(1, levels):
            positions = (chain_starts + level - 1).flatten()
            parts.append((positions, level_columns[level].columns))
        return parts

    def list_log_probs(
        self,
        model: Callable[..., Any],
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        codes: torch.Tensor,
        valid: torch.Tensor,
    ) -> torch.Tensor:
        """(n, m, L) float32: the log-probability of each code of n lists after what precedes it, 0
        for items that are not `valid`.

        As `scores`, but `codes` are (n, m, L), and `valid` (n, m) is False behind the last item of
        a list."""
        n, length, levels = codes.shape
        device = codes.device
        columns = token_columns(self.tokens, device)
        items = columns.ids(codes)  # (n, m, L)
        between = [token for token in (self.tokens.end, self.tokens.begin) if token is not None]
        if between:
            separators = torch.tensor(between, device=device).expand(n, length, -1)
            items = torch.cat([items, separators], dim=-1)  # (n, m, L + 2)
        item_tokens = items.shape[-1]
        # nothing is predicted from the last code, nor from what follows it
        ids = items.flatten(1)[:, : (length - 1) * item_tokens + levels - 1]
        in_list = valid.long().repeat_interleave(item_tokens, dim=1)[:, : ids.shape[1]]
        mask = torch.cat([prompt_mask, in_list], dim=1)
        inputs = {
            "input_ids": torch.cat([prompt_ids, ids], dim=1),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
        }

        # a code is predicted from the token before it: (n, m) positions, in the flattened batch, of
        # the tokens before the first code of each item
        list_starts = torch.arange(n, device=device)[:, None] * mask.shape[1] + prompt_ids.shape[1]
        before_items = list_starts + torch.arange(length, device=device) * item_tokens - 1
        parts: list[Part] = [
            ((before_items + level).flatten(), columns.levels[level].columns)
            for level in range(levels)
        ]
        level_logits = part_logits(model, self.head, inputs, parts, narrow=self.narrow)
        # each item of a list is a group of one SID
        log_probs = self._walk(level_logits, codes.reshape(n * length, 1, levels)).log_probs
        return log_probs.view(n, length, levels).masked_fill(~valid.unsqueeze(-1), 0.0)


def pad_left(prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """n prompts -> (n, P) token ids, padded on the left with 0, and (n, P) 1 for a token."""
    ids = pad_sequence(list(prompts), batch_first=True, padding_side="left")
    ones = [torch.ones_like(prompt) for prompt in prompts]
    return ids, pad_sequence(ones, batch_first=True, padding_side="left")
