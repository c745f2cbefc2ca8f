"""Write an untrained model with the shape and the tokenizer of another one.

    python benchmarks/scratch_like.py MODEL OUT [--seed 0]

MODEL is a folder or a .gguf file."""

import argparse
from pathlib import Path

from sidtool.model.pretrained import load_tokenizer, locate, save_pretrained


def write_untrained(model: str, out: Path, seed: int = 0) -> None:
    """Write the untrained model to a new folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint = locate(model)
    options = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    config = AutoConfig.from_pretrained(checkpoint.folder, **options)
    torch.manual_seed(seed)
    untrained = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    save_pretrained(out, untrained, load_tokenizer(checkpoint))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_untrained(args.model, args.out, args.seed)
