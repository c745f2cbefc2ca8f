#!/usr/bin/env bash
# Reinforcement on MovieLens-100K: trains the model of `make demo` further, and compares.
# Usage: run.sh [FOLDER] [DATA]: the folder that `sidtool fit` filled (default: demo/movielens), and that of `sidtool
# example movielens` (default: demo/data).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-demo/movielens}"
data="${2:-demo/data}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ ! -d "$work/model" ]; then
  echo "$work has no trained model: run make demo first" >&2
  exit 1
fi

# 1. Items that the model recommends for each training history, rewarded as in MiniOneRec. The checkpoint is selected
#    on validation; one that is worse than the start on rare or on frequent films is refused.
sidtool rl "$work/model" "$work/sft/train.jsonl" -o "$work/reinforced" --force --config "$here/rl.yaml"

# 2. The control: the same examples, trained on further.
sidtool train "$work/model" "$work/sft/train.jsonl" -o "$work/longer" --force --config "$here/train.yaml"

# 3. Ratings as weights: exp(rating), at most e^4. The same events with their ratings are the same split.
sidtool split "$data/events.csv" -o "$work/split-rated" --force --feedback rating
sidtool make-sft "$work/bundle.zarr" "$data/items.csv" "$work/split-rated" \
  -o "$work/sft-weighted/train.jsonl" --force --model "$work/model" --history-length 20 --max-length 128 \
  --weight "exp(rating/1)" --weight-clip 54.6
sidtool train "$work/model" "$work/sft-weighted/train.jsonl" -o "$work/weighted" --force --config "$here/train.yaml"

# 4. Each against the start, on the same users: all, by how often the film was rated, and the mean over films.
for model in reinforced longer weighted; do
  sidtool evaluate "$work/$model" "$work/split" --exclude-seen --against "$work/model"
done
