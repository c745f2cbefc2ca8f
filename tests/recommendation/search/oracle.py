"""Lists by definition: whole sequences run through the model, every continuation tried."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.tokenizer.bundle.trie import Trie

Codes = tuple[int, ...]


def eligible_counts(trie: Trie, leaf_filter: LeafFilter | None) -> dict[Codes, int]:
    """SID -> the number of its items that a filter leaves, where there is one."""
    counts = {}
    for leaf, codes in enumerate(trie.leaf_codes(np.arange(trie.n_leaves)).tolist()):
        items = trie.leaf_positions(leaf)
        count = len(items) if leaf_filter is None else int(leaf_filter.passes(items).sum())
        if count:
            counts[tuple(codes)] = count
    return counts


@dataclass
class ListModel:
    """A model, a prompt and a catalog; log-probabilities by a full forward pass per sequence."""

    model: Any
    prompt: Sequence[int]
    tokens: SidTokens
    normalize: str
    all_sids: set[Codes]
    counts: dict[Codes, int]
    _steps: dict[Codes, Any] = field(default_factory=dict)

    def open_codes(self, written: Codes) -> list[int]:
        """The codes that may follow the codes that a list has so far."""
        levels = self.tokens.space.levels
        whole = len(written) // levels * levels
        used = Counter(written[i : i + levels] for i in range(0, whole, levels))
        prefix = written[whole:]
        depth = len(prefix)
        codes = set()
        for sid, count in self.counts.items():
            if sid[:depth] == prefix and used[sid] < count:
                codes.add(sid[depth])
        return sorted(codes)

    def steps(self, written: Codes) -> Any:
        """(size,) log-probability of each next code, closed ones included."""
        self.compute([written])
        return self._steps[written]

    @torch.no_grad()
    def compute(self, lists: Sequence[Codes]) -> None:
        """The steps behind lists of one length, in one forward pass."""
        lists = [written for written in lists if written not in self._steps]
        if not lists:
            return
        answers = [self._ids(written) for written in lists]
        prompts = [list(self.prompt)] * len(lists)
        if self.model.config.is_encoder_decoder:
            start = self.model.config.decoder_start_token_id
            inputs = {"input_ids": torch.tensor(prompts)}
            inputs["decoder_input_ids"] = torch.tensor([[start, *ids] for ids in answers])
        else:
            pairs = zip(prompts, answers, strict=True)
            inputs = {"input_ids": torch.tensor([[*ids, *answer] for ids, answer in pairs])}
        logits = self.model(**inputs).logits[:, -1].double()
        for written, row in zip(lists, logits, strict=True):
            self._steps[written] = self._log_probs(written, row).numpy()

    def _ids(self, written: Codes) -> list[int]:
        levels = self.tokens.space.levels
        ids: list[int] = []
        for place, code in enumerate(written):
            ids.append(int(self.tokens.level_ids[place % levels][code]))
            if place % levels == levels - 1 and self.tokens.end is not None:
                ids += [self.tokens.end, self.tokens.begin]
        return ids

    def _log_probs(self, written: Codes, logits: torch.Tensor) -> torch.Tensor:
        depth = len(written) % self.tokens.space.levels
        ids = torch.from_numpy(self.tokens.level_ids[depth])
        # a code may have no token
        result = torch.where(ids >= 0, logits[ids.clamp_min(0)], -torch.inf)
        if self.normalize == "vocabulary":
            return result - logits.logsumexp(-1)
        if self.normalize == "trie":
            prefix = written[len(written) - depth :]
            children = [sid[depth] for sid in self.all_sids if sid[:depth] == prefix]
            closed = torch.ones(len(result), dtype=torch.bool)
            closed[children] = False
            result = result.masked_fill(closed, -torch.inf)
        return result.log_softmax(-1)

    def length(self, length: int) -> int:
        """How many items a list has."""
        return min(length, sum(self.counts.values()))

    def beams(self, length: int, width: int | None) -> list[tuple[Codes, float]]:
        """Plain beam search over lists, code by code, each with its log-probability; without a
        width nothing is pruned."""
        beams: list[tuple[Codes, float]] = [((), 0.0)]
        for _ in range(self.length(length) * self.tokens.space.levels):
            self.compute([written for written, _ in beams])
            longer = [
                ((*written, code), score + float(self.steps(written)[code]))
                for written, score in beams
                for code in self.open_codes(written)
            ]
            beams = sorted(longer, key=lambda beam: -beam[1])[:width]
        return beams
