"""How far one target per prompt survives in a beam: the number of levels after which its prefix is
still among the beams. A prefix that is lost never comes back, so this number says it all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sidtool.tokenizer.bundle.trie import Trie


class TargetPrefixes:
    """Follows the prefixes of a batch's targets, which are leaves of the trie; -1 is no target."""

    def __init__(self, targets: Sequence[int], trie: Trie, device: Any) -> None:
        paths = trie.leaf_nodes(np.asarray(targets, dtype=np.int64))
        self._nodes = torch.from_numpy(paths).to(device)  # (batch, levels)
        self.survived = torch.zeros(len(paths), dtype=torch.long, device=device)
        """(batch,): the levels so far after which the target's prefix was among the beams"""

    def update(self, level: int, nodes: torch.Tensor, ranks: torch.Tensor) -> None:
        """Compare the targets with the (batch, beams) nodes that survive a level; a beam of rank
        minus infinity is a dead end."""
        is_prefix = nodes == self._nodes[:, level : level + 1]
        self.survived += (is_prefix & (ranks > -torch.inf)).any(dim=1)
