"""What a loss over whole items adds to the loss over codes, by models alone on validation users.

    python benchmarks/item_loss.py WORK -o FILE.json --name NAME [--seeds 0,1,2] [--weight 0.3]
        [--positions N] [--seen]

WORK is a folder that `recipe.py --teachers ""` filled: its models are compared with models of the
same seeds, examples and settings that have the second loss. Before an item's first code, every item
of the catalog has a score: a linear map of the hidden state times the sum of the embedding rows of
its codes. The cross-entropy of these scores, times the weight, is added to the loss of a step; with
`--positions` that of N random positions stands for all. The map is used in training only."""

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from changed_training import compare, comparison_parser, store, train_recipe
from torch import nn
from torch.nn.functional import embedding_bag

from sidtool.recommendation.search import token_columns, trie_arrays
from sidtool.training.loop.trainer import CausalTrainer
from sidtool.training.loss.batches import Targets


class ItemSoftmax(torch.autograd.Function):
    """Cross-entropy with a softmax over all items: (n, dim) states, (items, dim) vectors and (n,)
    items -> (n,), with products in the precision `dtype`. It passes over the scores less often than
    torch's does."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, vectors: torch.Tensor, items: torch.Tensor, dtype: Any
    ) -> torch.Tensor:
        """The losses."""
        states, vectors = states.to(dtype), vectors.to(dtype)
        scores = (states @ vectors.T).float()  # (n, items)
        largest = scores.amax(1, keepdim=True)
        target_scores = scores.gather(1, items[:, None])
        total = scores.sub_(largest).exp_().sum(1, keepdim=True)
        scores.div_(total)
        scores[torch.arange(len(items)), items] -= 1
        ctx.save_for_backward(states, vectors, scores)
        return (total.log() + largest - target_scores)[:, 0]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """The gradients of states and vectors."""
        states, vectors, scores = ctx.saved_tensors
        score_gradient = (scores * gradient[:, None]).to(states.dtype)
        return (score_gradient @ vectors).float(), (score_gradient.T @ states).float(), None, None


class ItemLossTrainer(CausalTrainer):
    """Trains with the second loss, in one process and without accumulated batches."""

    def __init__(self, *, weight: float, positions: int, **settings: Any) -> None:
        super().__init__(**settings)
        trie = self._loss.trie
        assert trie is not None
        self.weight, self.positions = weight, positions
        self.arrays = trie_arrays(trie, "cpu")
        self.columns = token_columns(self._loss.tokens, "cpu")
        codes = trie.leaf_codes(np.arange(trie.n_leaves))  # type: ignore[arg-type]
        self.item_ids = self.columns.ids(torch.from_numpy(codes.astype(np.int64)))
        self.generator = torch.Generator().manual_seed(self.args.seed)
        self.map = nn.Linear(self.model.config.hidden_size, self.model.config.hidden_size)
        nn.init.eye_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        # the map is no part of the model, which is saved without it
        self.map_optimizer = torch.optim.AdamW(
            self.map.parameters(), lr=self.args.learning_rate, weight_decay=self.args.weight_decay
        )
        self.model.get_output_embeddings().register_forward_pre_hook(self._keep_hidden)

    def _keep_hidden(self, _: Any, inputs: Any) -> None:
        self.hidden = inputs[0].flatten(0, 1)  # (positions, dim)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The sum of both losses."""
        targets = Targets.pop(dict(inputs), self._loss.tokens.space.levels)
        code_loss = super().compute_loss(model, inputs, *args, **kwargs)
        levels = self.item_ids.shape[1]
        places = self.columns.levels[0].contains(targets.ids).nonzero()[:, 0]
        places = places[places + levels <= len(targets.ids)]
        sids = torch.stack([targets.ids[places + level] for level in range(levels)], dim=1)
        items, exist = self.arrays.descend(self.columns.locate(sids)[1])
        places, items = places[exist], items[exist]
        n = len(places)
        if 0 < self.positions < n:
            sample = torch.randperm(n, generator=self.generator)[: self.positions]
            places, items = places[sample], items[sample]
        vectors = embedding_bag(self.item_ids, model.get_input_embeddings().weight, mode="sum")
        states = self.map(self.hidden[targets.positions[places]].float())
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        losses = ItemSoftmax.apply(states, vectors, items, dtype)
        share = n / max(1, len(places))
        total = (targets.weights[places] * losses).sum() * share
        return code_loss + self.weight * total / targets.weights.sum()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step of the parent class, and one of the map."""
        loss = super().training_step(*args, **kwargs)
        nn.utils.clip_grad_norm_(self.map.parameters(), 1.0)
        self.map_optimizer.param_groups[0]["lr"] = self.lr_scheduler.get_last_lr()[0]
        self.map_optimizer.step()
        self.map_optimizer.zero_grad()
        return loss


def trained(args: Namespace, seed: int) -> Path:
    """The model of a seed with the second loss; a killed training resumes with a new map."""
    out = Path(args.work) / f"item-loss-{args.weight}" / f"seed-{seed}"
    trainer = partial(ItemLossTrainer, weight=args.weight, positions=args.positions)
    return train_recipe(args.work, seed, out, trainer=trainer)


def main() -> None:
    """Measure the second loss."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--weight", type=float, default=0.3)
    parser.add_argument("--positions", type=int, default=0, help="0: all")
    args = parser.parse_args()
    change = "with item loss"
    store(args, compare(args, trained, change), change)


if __name__ == "__main__":
    main()
