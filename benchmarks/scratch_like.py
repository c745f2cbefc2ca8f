"""Write a model of the same shape and tokenizer as another, untrained: what a pretrained one is
measured against.

Usage: scratch_like.py MODEL OUT [SEED]. MODEL is a folder or a .gguf file.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sidtool.model.pretrained import load_tokenizer, locate, save_pretrained

checkpoint, out = locate(sys.argv[1]), Path(sys.argv[2])
named = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
config = AutoConfig.from_pretrained(checkpoint.folder, **named)
torch.manual_seed(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
save_pretrained(
    out, AutoModelForCausalLM.from_config(config, dtype=torch.float32), load_tokenizer(checkpoint)
)
