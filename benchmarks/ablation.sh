#!/usr/bin/env bash
# What each part of the Beauty recipe is worth: the recipe with one thing changed, a short training each, on all valid users.
# Usage: [SEEDS="0"] [EPOCHS=12] [ONLY="recipe wide"] [TEACHERS="0 1 2"] ablation.sh [DATA_DIR [WORK_DIR]]; test is never read.
# Variants train on the rows alone, without teachers, unless these are named.
# What is finished is not run again. Prints a table; the recipe's own row is the first.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
data="${1:-${SIDTOOL_SHARED_DATA:-../shared/data}/beauty}"; work="${2:-benchmarks/work/ablation}"
export PATH="$here/../.venv/bin:$PATH" ASK=valid SEEDS="${SEEDS:-0}" TEACHERS="${TEACHERS-}"
rows=()
variant() {  # variant NAME [FILE:KEY=VALUE ...]: the recipe with these settings changed, a key of codebook, model, sft or train
  [ -z "${ONLY:-}" ] || [[ " $ONLY " == *" $1 "* ]] || return 0
  local name="$1" run="$work/$1" change pair; shift
  mkdir -p "$run/recipe" "$work/codebooks"
  cp "$here"/beauty/{codebook,model,sft,train}.yaml "$run/recipe"
  for change in "train:num_train_epochs=${EPOCHS:-12}" "$@"; do
    pair="${change#*:}"
    printf '\n%s: %s\n' "${pair%%=*}" "${pair#*=}" >> "$run/recipe/${change%%:*}.yaml"
  done
  # variants of one codebook share it; the encoder's wheel too
  local codebook; codebook="$(cd "$work" && pwd)/codebooks/$(echo "${SIGNAL-1}" | cat - "$run/recipe/codebook.yaml" | sha256sum | cut -c1-12)"
  mkdir -p "$codebook"
  [ ! -e "$codebook/bundle.zarr" ] || [ -e "$run/bundle.zarr" ] || ln -s "$codebook/bundle.zarr" "$run/bundle.zarr"
  [ ! -e "$work/wheels" ] || [ -e "$run/wheels" ] || ln -s "$(cd "$work" && pwd)/wheels" "$run/wheels"
  RECIPE="$run/recipe" bash "$here/recipe.sh" beauty "$data" "$run" >&2
  [ -e "$codebook/bundle.zarr" ] || ln -s "$(cd "$run" && pwd)/bundle.zarr" "$codebook/bundle.zarr"
  [ -e "$work/wheels" ] || ln -s "$(cd "$run" && pwd)/wheels" "$work/wheels"
  for seed in $SEEDS; do rows+=("$name, seed $seed=$run/seed-$seed/metrics-valid.json"); done
}
variant recipe
variant forward train:reverse_prob=0 train:dropout=0.2
variant forward-0.1 train:reverse_prob=0
variant adamw train:optimizer=adamw train:learning_rate=1.5e-3
variant history-50 sft:history_length=50 sft:max_length=200
variant label-smoothing train:label_smoothing_factor=0.1
variant signal-0.3 "codebook:set=[signal_weight=0.3]"
variant signal-0.7 "codebook:set=[signal_weight=0.7]"
variant signal-0.85 "codebook:set=[signal_weight=0.85]"
variant level-loss train:softmax_over=level
variant level-loss-256 train:softmax_over=level codebook:levels=256x256x256
variant 256x256x256 codebook:levels=256x256x256
variant 683x683x682 codebook:levels=683x683x682
variant 1536x256x256 codebook:levels=1536x256x256
SIGNAL='' variant titles-alone
variant no-dropped-items train:item_dropout=0
variant more-dropped-items train:item_dropout=0.3
variant dropout-0.2 train:dropout=0.2
variant dropout-0.3 train:dropout=0.3
variant longer train:num_train_epochs=20 train:dropout=0.2 train:shuffle_span=0.25 train:eval_steps=0.2 train:save_steps=0.2
variant batch-128 train:per_device_train_batch_size=128
variant theta-100 'model:set=["rope_parameters={rope_type: default, rope_theta: 100.0, partial_rotary_factor: 0.5}"]' train:eval_steps=0.2 train:save_steps=0.2
variant wide model:preset=gpt2-mini train:learning_rate=0.001
python "$here/environment.py"
python "$here/table.py" "${rows[@]}"
