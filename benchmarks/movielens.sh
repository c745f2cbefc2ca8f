#!/usr/bin/env bash
# The demo's model beside its control: trained the same way on the same SIDs, dealt out to the films at random.
# Usage: movielens.sh [WORK_DIR]. Runs the demo first unless its output is there.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-demo}"; example="$here/../examples/movielens"; control="$work/control"
export PATH="$here/../.venv/bin:$PATH"
python "$here/environment.py"
[ -e "$work/metrics.json" ] || bash "$example/run.sh" "$work"
data="$work/data/recbole/dataset_example/ml-100k"
mkdir -p "$control"
python "$here/permute_sids.py" "$work/ml.zarr" "$control/ml.zarr"
sidtool extend-model "$work/base" "$control/ml.zarr" -o "$control/base+sid" --init random --force
sidtool make-sft "$control/ml.zarr" "$data/ml-100k.item" "$data/ml-100k.inter" -o "$control/sft/train.jsonl" --force \
  --model "$control/base+sid" --config "$example/sft.yaml"
sidtool train "$control/base+sid" "$control/sft/train.jsonl" -o "$control/tuned" --force --config "$example/train.yaml"
sidtool evaluate "$control/tuned" "$control/sft/test.jsonl" --json > "$control/metrics.json.partial"
mv "$control/metrics.json.partial" "$control/metrics.json"
python "$here/table.py" "semantic IDs=$work/metrics.json" "permuted SIDs=$control/metrics.json"
