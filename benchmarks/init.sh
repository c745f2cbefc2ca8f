#!/usr/bin/env bash
# Which first values of the new rows train best: extend-model --init codebook, mean or random, on MovieLens-100K.
# Usage: init.sh [WORK_DIR] [SEEDS]. Needs the demo's output in WORK_DIR; prints validation NDCG@10, never test.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-demo}"; seeds="${2:-0 1}"; example="$here/../examples/movielens"; out="$work/init"
export PATH="$here/../.venv/bin:$PATH"
python "$here/environment.py"
mkdir -p "$out"
echo "| --init | seed | valid ndcg@10 |"; echo "| --- | --- | --- |"
for seed in $seeds; do
  for init in codebook mean random; do
    name="$out/$init-$seed"
    if [ ! -e "$name.json" ]; then
      sidtool extend-model "$work/base" "$work/ml.zarr" -o "$name+sid" --init "$init" --seed "$seed" --force > /dev/null
      sidtool train "$name+sid" "$work/sft/train.jsonl" -o "$name" --config "$example/train.yaml" --set "seed=$seed" \
        --set num_train_epochs=5 --set valid_users=0 --force --json > "$name.partial.json"
      mv "$name.partial.json" "$name.json"
    fi
    python -c "import json, sys; print('| $init | $seed |', round(json.load(open('$name.json'))['best'], 4), '|')"
  done
done
