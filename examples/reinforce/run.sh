#!/usr/bin/env bash
# Reinforcement on MovieLens-100K: trains the model of examples/movielens further, and compares.
# Usage: run.sh [WORK_DIR], the folder that examples/movielens/run.sh filled (default: demo).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-demo}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ ! -d "$work/tuned" ]; then
  echo "$work has no trained model: run examples/movielens/run.sh $work first" >&2
  exit 1
fi

# 1. Items that the model recommends for each training history, rewarded as in MiniOneRec. The checkpoint is selected
#    on validation; one that is worse than the start on rare or on frequent films is refused.
sidtool rl "$work/tuned" "$work/sft/train.jsonl" -o "$work/reinforced" --force --config "$here/rl.yaml"

# 2. The control: the same examples, trained on further.
sidtool train "$work/tuned" "$work/sft/train.jsonl" -o "$work/longer" --force --config "$here/train.yaml"

# 3. Ratings as weights: exp(rating), at most e^4. The same events with their ratings are the same split.
recbole="$work/data/recbole/dataset_example/ml-100k"
sidtool split "$recbole/ml-100k.inter" -o "$work/split-rated" --force --feedback rating
sidtool make-sft "$work/ml.zarr" "$recbole/ml-100k.item" "$work/split-rated" \
  -o "$work/sft-weighted/train.jsonl" --force --model "$work/tuned" --history-length 20 --max-length 128 \
  --weight "exp(rating/1)" --weight-clip 54.6
sidtool train "$work/tuned" "$work/sft-weighted/train.jsonl" -o "$work/weighted" --force --config "$here/train.yaml"

# 4. Each against the start, on the same users: all, by how often the film was rated, and the mean over films.
for model in reinforced longer weighted; do
  sidtool evaluate "$work/$model" "$work/split" --exclude-seen --against "$work/tuned"
done
