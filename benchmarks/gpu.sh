#!/usr/bin/env bash
# Measure sidtool on a machine with one GPU and without a network, in pieces of a few minutes each.
# Usage: gpu.sh [WORK] [DEVICE]. WORK (gpu) gets PIECE.json for each piece and a log; DEVICE is cuda, or cpu for a smoke
# test of small sizes that measures nothing. A piece that has its file is not run again, so a job that was stopped goes
# on with the same command; a piece that fails is reported and does not stop the others.
# Alignment at 100 times the tokens of the CPU's (benchmarks/alignment.py) needs WORK/alignment/wheels and
# WORK/alignment/smollm2: run `python benchmarks/wheels.py` for both lists of wheels on a machine with a network, and copy
# the folders.
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

if [ -d "$work/alignment/wheels" ] && [ ! -s "$work/alignment/result.json" ]; then
  # its steps are resumable themselves
  timeout "${PIECE_SECONDS:-600}" python "$here/alignment.py" -o "$work/alignment" --tokens 30000000 >> "$work/log" 2>&1 ||
    { echo "alignment: not at its end, run the command again" >&2; failed=1; }
fi

python "$here/gpu.py" table "$work"
exit $failed
