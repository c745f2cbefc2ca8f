"""Estimate the GPU memory that training takes, from a model's configuration.

    python benchmarks/memory_estimate.py [--batch 8] [--length 512] [--new 800] [--gpu 24]

Nothing is measured. The estimate counts, in bytes:

* weights: 4 per trained parameter (float32); 2 per frozen one (bfloat16), but 4 in the embeddings
  and the head; under autocast, 2 more per float32 matrix for its bfloat16 copy
* gradients and AdamW's two moments: 4 + 8 per trained parameter
* activations per token and decoder layer: in bfloat16 the inputs of its matrices, queries, keys,
  values, the gate and its product (fused attention), and in float32 the inputs of its two norms
  (after V. Korthikanti et al., Reducing Activation Recomputation, 2022); with gradient
  checkpointing all of this for one layer, and only the input of each other layer
* logits: float32 and their gradient, for a tenth of the tokens, over the whole vocabulary (nearly
  nothing where all targets are SIDs)
* 1.0 GiB for CUDA, kernels and fragmentation
"""

import argparse
from dataclasses import dataclass

from table import markdown

GIB = 1 << 30
OVERHEAD = 1.0
TARGETS = 0.1
LORA_RANK = 16


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with tied embeddings, grouped queries and a gated feed-forward."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's matrices."""
        queries = self.heads * self.head_dim
        keys = self.kv_heads * self.head_dim
        attention = [
            (self.width, queries),
            (self.width, keys),
            (self.width, keys),
            (queries, self.width),
        ]
        return [
            *attention,
            (self.width, self.inner),
            (self.width, self.inner),
            (self.inner, self.width),
        ]

    @property
    def body(self) -> int:
        """Parameters of all layers, without norms."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    def embeddings(self, new: int) -> int:
        """Parameters of the embeddings, which the head shares."""
        return (self.vocabulary + new) * self.width

    @property
    def adapters(self) -> int:
        """Parameters of LoRA on every matrix."""
        return self.layers * LORA_RANK * sum(rows + columns for rows, columns in self.matrices)

    @property
    def layer_activations(self) -> int:
        """Bytes that one layer stores per token: inputs of each matrix and norm, the gate, the
        output of attention."""
        queries = self.heads * self.head_dim
        keys = self.kv_heads * self.head_dim
        stored = 4 * self.width + 3 * queries + 3 * keys + 4 * self.inner
        norm_inputs = 2 * 4 * self.width  # in float32
        return 2 * stored + norm_inputs


MODELS = {
    "SmolLM2-135M": Shape(576, 30, 9, 3, 64, 1536, 49152),
    "Gemma-3-270M": Shape(640, 18, 4, 1, 256, 2048, 262144),
    "Qwen3-0.6B": Shape(1024, 28, 16, 8, 128, 3072, 151936),
    "Qwen3-1.7B": Shape(2048, 28, 16, 8, 128, 6144, 151936),
}
"""The sizes in their published config.json."""


def estimate(
    shape: Shape, stage: str, tokens: int, new: int, *, checkpointing: bool
) -> dict[str, float]:
    """GiB of each part of a step on `tokens` tokens, and their `sum`."""
    embeddings = shape.embeddings(new)
    body = shape.body
    trained = {
        "full": body + embeddings,
        "embeddings": new * shape.width,
        "lora": new * shape.width + shape.adapters,
    }[stage]
    if stage == "full":
        weights = 4 * (body + embeddings) + 2 * (body + embeddings)
    else:
        weights = 2 * body + 4 * embeddings + 2 * embeddings + 4 * (trained - new * shape.width)
    layer = shape.layer_activations
    layer_inputs = (shape.layers - 1) * 2 * shape.width
    stored = layer + layer_inputs if checkpointing else shape.layers * layer
    parts = {
        "weights": weights,
        "gradients and AdamW": 12 * trained,
        "activations": tokens * stored,
        "logits": 8 * TARGETS * tokens * (shape.vocabulary + new),
    }
    gibibytes = {name: value / GIB for name, value in parts.items()}
    return gibibytes | {"sum": sum(gibibytes.values()) + OVERHEAD}


def estimates_table(batch: int, length: int, new: int, gpu: float) -> str:
    """The estimates of every model and stage."""
    names = ("weights", "gradients and AdamW", "activations", "logits", "sum")
    rows = []
    for model, shape in MODELS.items():
        for stage in ("embeddings", "lora", "full"):
            for checkpointing in (False, True):
                parts = estimate(shape, stage, batch * length, new, checkpointing=checkpointing)
                fits = "yes" if parts["sum"] * GIB <= 0.95 * gpu * 1e9 else "no"
                values = [f"{parts[name]:.1f}" for name in names]
                rows.append([model, stage, "on" if checkpointing else "off", *values, fits])
    return markdown(["model", "stage", "checkpointing", *names, f"fits {gpu:g} GB"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--new", type=int, default=800)
    parser.add_argument("--gpu", type=float, default=24)
    args = parser.parse_args()
    print(
        f"Estimated, not measured: GiB for {args.batch} lines of {args.length} tokens, "
        f"{args.new} new tokens, LoRA rank {LORA_RANK}\n"
    )
    print(estimates_table(args.batch, args.length, args.new, args.gpu))
