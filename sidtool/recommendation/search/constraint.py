"""The constraint for plain `generate` and other engines: a stateless logits processor.

Every token belongs to one level, so the trailing SID tokens alone give depth and prefix. Nothing is
stored between steps: beams may be reordered, prompts may have any length. SIDs follow one another
until `max_new_tokens` ends them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LogitsProcessor

from sidtool.base.errors import DataError
from sidtool.model import check_model_folder
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search.columns import token_columns
from sidtool.recommendation.search.device_trie import (
    FilterArrays,
    normalize_over_children,
    trie_arrays,
)
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import Normalize
from sidtool.tokenizer.bundle import Trie


class SidLogitsProcessor(LogitsProcessor):
    """Keeps the scores of tokens that continue a valid SID; all others become minus infinity.

    With `begin_end_tokens`, every SID is between a begin and an end token, if the space has them.
    `normalize` "level" replaces the scores by log-probabilities over the level's codes, "trie" by
    those over its valid codes; "vocabulary" leaves them as they are. `filters`, one per prompt,
    exclude items; the beams of a prompt are consecutive rows, as in `generate`.

    With `strict`, a row whose prefix is no prefix of a valid SID raises DataError. Beam search
    needs `strict=False` where it has more beams than valid prefixes: unused beams then get minus
    infinity everywhere."""

    def __init__(
        self,
        trie: Trie,
        tokens: SidTokens,
        *,
        begin_end_tokens: bool = False,
        normalize: Normalize = "vocabulary",
        filters: Sequence[LeafFilter | None] | None = None,
        strict: bool = True,
    ) -> None:
        self._trie = trie
        self._tokens = tokens
        self._strict = strict
        self._normalize = normalize
        self._begin = tokens.begin if begin_end_tokens else None
        self._end = tokens.end if begin_end_tokens else None
        self._filters = filters if filters and any(filters) else None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, begin_end_tokens: bool = False, strict: bool = False
    ) -> "SidLogitsProcessor":
        """The constraint of a model, a folder or `hf://ORG/NAME`: its bundle's active items, its
        token ids, and the normalization that it was trained with. Not strict by default, as beam
        search needs.

        Raises CompatibilityError or IntegrityError if contract and bundle of the folder do not
        belong together."""
        contract, bundle, _ = check_model_folder(folder)
        return cls(
            bundle.trie(),
            contract.tokens,
            begin_end_tokens=begin_end_tokens,
            normalize=contract.normalize,
            strict=strict,
        )

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(rows, length) token ids and (rows, vocabulary) scores -> (rows, vocabulary) scores."""
        out = torch.full_like(scores, -torch.inf)
        for rows, columns, valid_scores in self.valid_scores(input_ids, scores):
            out[rows, columns] = valid_scores
        if self._strict and bool((out == -torch.inf).all(-1).any()):
            raise DataError(
                "a row has left the trie: no valid SID has its prefix",
                hint="check that all its SID tokens belong to this trie",
            )
        return out

    def valid_scores(
        self, input_ids: torch.Tensor, scores: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The same as blocks, for a caller that writes over `scores`: (n, 1) rows, (m,) token ids
        and the (n, m) scores there. A row is in one block at most; elsewhere its scores are minus
        infinity."""
        depth, nodes, invalid = self._prefixes(input_ids)
        arrays = trie_arrays(self._trie, scores.device)
        blocks = []
        at_edge = torch.zeros_like(invalid)  # rows that need a begin or an end token
        if self._begin is not None and self._end is not None:
            complete = depth == self._trie.levels
            outside = (depth == 0) & (input_ids[:, -1] != self._begin)
            for is_row, token in ((complete, self._end), (outside, self._begin)):
                rows = is_row.nonzero()
                # the only token that may follow: its probability among these is 1
                score = scores[rows, token]
                if self._normalize != "vocabulary":
                    score = torch.zeros_like(score)
                blocks.append((rows, torch.tensor([token], device=scores.device), score))
            at_edge = complete | outside
        else:
            depth = torch.where(depth == self._trie.levels, 0, depth)
        expects_code = ~at_edge & ~invalid
        for level in range(self._trie.levels):
            rows = ((depth == level) & expects_code).nonzero()
            if not len(rows):
                continue
            # (rows, 1, fan-out) each
            children, codes, valid = arrays.candidates(level, nodes[level][rows])
            columns = token_columns(self._tokens, scores.device).levels[level]
            ids = columns.columns
            if isinstance(ids, tuple):
                ids = torch.arange(*ids, device=scores.device)
            level_scores = scores[rows, ids]
            if self._normalize != "vocabulary":
                level_scores = level_scores.log_softmax(-1)
            places = columns.places(codes[:, 0])
            child_scores = level_scores.gather(1, places)
            if self._normalize == "trie":
                child_scores = normalize_over_children(child_scores, valid[:, 0])
            if self._filters is not None:
                rows_per_prompt = len(scores) // len(self._filters)
                filters = [self._filters[row // rows_per_prompt] for row in rows[:, 0].tolist()]
                eligible = FilterArrays(filters, arrays).eligible(level, children)
                valid &= eligible > 0
            child_scores = child_scores.masked_fill(~valid[:, 0], -torch.inf)
            # padding repeats a code that may be valid: the larger of the two scores wins
            empty = torch.full_like(level_scores, -torch.inf)
            blocks.append((rows, ids, empty.scatter_reduce(1, places, child_scores, "amax")))
        return blocks

    def _prefixes(
        self, input_ids: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """(rows,): the length of the prefix that each row ends with; for each length below
        `levels`, (rows,) nodes of the prefixes of that length, 0 for other rows; and (rows,)
        whether the prefix is invalid."""
        levels = self._trie.levels
        device = input_ids.device
        arrays = trie_arrays(self._trie, device)
        token_levels, codes = token_columns(self._tokens, device).locate(input_ids[:, -levels:])
        # the prefix ends with the last token; -1 and `levels` are no levels: there is no prefix
        depth = torch.where(token_levels[:, -1] < levels, token_levels[:, -1] + 1, 0)
        nodes = [torch.zeros_like(depth) for _ in range(levels)]
        invalid = depth > codes.shape[1]
        for length in range(1, min(levels, codes.shape[1]) + 1):
            rows = (depth == length).nonzero().squeeze(1)
            prefix_nodes, exists = arrays.descend(codes[rows, -length:])
            expected_levels = torch.arange(length, device=device)
            out_of_order = (token_levels[rows, -length:] != expected_levels).any(-1)
            invalid[rows] |= ~exists | out_of_order
            if length < levels:
                nodes[length][rows] = prefix_nodes
        return depth, nodes, invalid
