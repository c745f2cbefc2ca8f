#!/usr/bin/env bash
# TIGER (S. Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023) on your data.
# Usage: run.sh DATA ENCODER [WORK_DIR]. DATA is a folder with items.jsonl and interactions.csv, ENCODER a
# sentence-transformers model: a folder, or hf://ORG/NAME (sentence-transformers/sentence-t5-base in the paper).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
data="$1"
encoder="$2"
work="${3:-tiger}"
mkdir -p "$work"

# 1. Leave-one-out: each user's last item is test, the one before it is validation.
sidtool split "$data/interactions.csv" -o "$work/split" --force

# 2. Semantic IDs: RQ-VAE, and a digit for collisions.
sidtool build-codebook "$data/items.jsonl" -o "$work/bundle.zarr" --force --config "$here/codebook.yaml" \
  --encoder "$encoder"

# 3. The model: a T5 of the paper's shape, with tokens for codes and for users.
sidtool init-model "$data/items.jsonl" -o "$work/base" --force --config "$here/model.yaml"
sidtool extend-model "$work/base" "$work/bundle.zarr" -o "$work/base+sid" --force --config "$here/extend.yaml"

# 4. Histories.
sidtool make-sft "$work/bundle.zarr" "$data/items.jsonl" "$work/split" -o "$work/sft/train.jsonl" --force \
  --model "$work/base+sid" --config "$here/sft.yaml"

# 5. Train: 200,000 steps, for a GPU. On a CPU, add for instance --set num_train_epochs=4 --set warmup_steps=0.1
sidtool train "$work/base+sid" "$work/sft/train.jsonl" -o "$work/model" --force --config "$here/train.yaml"

# 6. Evaluate over all items, beside popularity and item-kNN.
sidtool evaluate "$work/model" "$work/split" --config "$here/evaluate.yaml" --json > "$work/metrics.json"
