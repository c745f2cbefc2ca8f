"""Print what training takes of a GPU, estimated from a model's configuration: none is needed, and
none was there.

Usage: memory_estimate.py [--batch 8] [--length 512] [--new 800] [--gpu 24]. What is counted, in
bytes:

* weights: 4 a parameter (float32 masters) where they learn; frozen ones 2 (bfloat16), but the embeddings and the head
  4; under autocast a bfloat16 copy of every float32 matrix besides, 2 each
* gradients and AdamW's two moments: 4 + 8 for each parameter that learns
* activations of a decoder layer for each token: in bfloat16 the inputs of its matrices, queries, keys, values, the
  gate and its product, attention fused, and in float32 what its two norms keep (after V.
  Korthikanti et al., Reducing Activation Recomputation, 2022); with gradient checkpointing one
  layer's, and the input alone of each other layer
* logits: float32 and their gradient, for a tenth of the tokens, over the whole vocabulary; next to nothing where all
  answers are SIDs
* 1.0 GiB for CUDA, kernels and fragments
"""

import argparse
from dataclasses import dataclass

GIB = 1 << 30
OVERHEAD = 1.0
TARGETS = 0.1
LORA_RANK = 16


@dataclass(frozen=True)
class Shape:
    """A decoder with tied embeddings, grouped queries and a gated feed-forward, as its
    configuration says."""

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
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
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
        """Parameters of all layers (norms left out)."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    def embeddings(self, new: int) -> int:
        """Parameters of the embeddings, which are the head."""
        return (self.vocabulary + new) * self.width

    @property
    def adapters(self) -> int:
        """Parameters of LoRA on every matrix."""
        return self.layers * LORA_RANK * sum(rows + columns for rows, columns in self.matrices)

    @property
    def layer_activations(self) -> int:
        """Bytes that one layer keeps of a token: inputs of each matrix and norm, the gate,
        attention's output."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        kept = 4 * self.width + 3 * queries + 3 * keys + 4 * self.inner
        return 2 * kept + 2 * 4 * self.width  # norms keep their input in float32


MODELS = {
    "SmolLM2-135M": Shape(576, 30, 9, 3, 64, 1536, 49152),
    "Gemma-3-270M": Shape(640, 18, 4, 1, 256, 2048, 262144),
    "Qwen3-0.6B": Shape(1024, 28, 16, 8, 128, 3072, 151936),
    "Qwen3-1.7B": Shape(2048, 28, 16, 8, 128, 6144, 151936),
}
"""As their published config.json say."""


def estimate(
    shape: Shape, stage: str, tokens: int, new: int, *, checkpointing: bool
) -> dict[str, float]:
    """GiB of each part, and their `sum`, of a step on so many tokens."""
    embeddings, body = shape.embeddings(new), shape.body
    learns = {
        "full": body + embeddings,
        "rows": new * shape.width,
        "lora": new * shape.width + shape.adapters,
    }[stage]
    if stage == "full":
        weights = 4 * (body + embeddings) + 2 * (body + embeddings)
    else:
        weights = 2 * body + 4 * embeddings + 2 * embeddings + 4 * (learns - new * shape.width)
    layer = shape.layer_activations
    kept = layer + (shape.layers - 1) * 2 * shape.width if checkpointing else shape.layers * layer
    parts = {
        "weights": weights,
        "gradients and AdamW": 12 * learns,
        "activations": tokens * kept,
        "logits": 8 * TARGETS * tokens * (shape.vocabulary + new),
    }
    found = {name: value / GIB for name, value in parts.items()}
    return found | {"sum": sum(found.values()) + OVERHEAD}


def table(batch: int, length: int, new: int, gpu: float) -> str:
    """The table as Markdown."""
    names = ("weights", "gradients and AdamW", "activations", "logits", "sum")
    head = ["model", "stage", "checkpointing", *names, f"in {gpu:g} GB"]
    lines = [
        f"Estimated, not measured: GiB at {batch} rows of {length} tokens, {new} new tokens, "
        f"LoRA rank {LORA_RANK}\n",
        "| " + " | ".join(head) + " |",
        "| " + " | ".join(["---"] * len(head)) + " |",
    ]
    for model, shape in MODELS.items():
        for stage in ("rows", "lora", "full"):
            for checkpointing in (False, True):
                parts = estimate(shape, stage, batch * length, new, checkpointing=checkpointing)
                fits = "yes" if parts["sum"] * GIB <= 0.95 * gpu * 1e9 else "no"
                named = [model, stage, "on" if checkpointing else "off"]
                lines.append(
                    "| "
                    + " | ".join([*named, *(f"{parts[name]:.1f}" for name in names), fits])
                    + " |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--new", type=int, default=800)
    parser.add_argument("--gpu", type=float, default=24)
    told = parser.parse_args()
    print(table(told.batch, told.length, told.new, told.gpu))
