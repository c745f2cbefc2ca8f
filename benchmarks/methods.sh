#!/usr/bin/env bash
# What each way of making semantic IDs is worth to the model behind it: every method by its own defaults, from titles alone
# and from titles with co-occurrence, then one model, one recipe (benchmarks/beauty) and one budget. Two data sets, by seeds.
# Usage: [ASK=valid] methods.sh [WORK_DIR [RESULT.json]]. What is finished is not run again; a kill costs one step.
#   METHODS   of rq-kmeans balanced rq-vae rq-kmeans+ opq pq fsq (all); balanced is rq-kmeans with --balanced, rq-kmeans without
#   SIGNALS   "titles together": without and with co-occurrence; DATASETS "movielens beauty"; SEEDS "0 1 2" of the model
#   LEVELS, EPOCHS   codes per level (256x256x256) and passes over the rows (2)
#   LIMIT     how many users are asked, evenly spread over the file (6000); SIDTOOL_EVALUATE_DTYPE=bfloat16 asks in half precision
#   ASK       valid chooses, test is read once: "valid test" unless it says "valid" alone
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
work="${1:-benchmarks/work/methods}"
methods="${METHODS:-rq-kmeans balanced rq-vae rq-kmeans+ opq pq fsq}"; ask="${ASK:-valid test}"
export PATH="$here/../.venv/bin:$PATH" SIDTOOL_EVALUATE_WIDTH=20 SIDTOOL_EVALUATE_LIMIT="${LIMIT:-6000}"
for seed in ${SEEDS:-0 1 2}; do for dataset in ${DATASETS:-movielens beauty}; do for method in $methods; do
  for signal in ${SIGNALS:-titles together}; do
    run="$work/$dataset/$method-$signal"
    if [ ! -e "$run/recipe" ]; then
      rm -rf "$run/recipe.partial"; mkdir -p "$run/recipe.partial"; cp "$here"/beauty/{codebook,model,sft,train}.yaml "$run/recipe.partial"
      codebook="method: $method"
      case "$method" in  # by default few items are balanced
        rq-kmeans) codebook+=$'\n'"balanced: false" ;;
        balanced) codebook="method: rq-kmeans"$'\n'"balanced: true" ;;
      esac
      printf '\nlevels: %s\n%s\n' "${LEVELS:-256x256x256}" "$codebook" >> "$run/recipe.partial/codebook.yaml"
      # two checkpoints: so short a training has little to choose from
      printf '\nnum_train_epochs: %s\nvalid_users: 200\neval_steps: 0.5\nsave_steps: 0.5\n' "${EPOCHS:-2}" \
        >> "$run/recipe.partial/train.yaml"
      mv "$run/recipe.partial" "$run/recipe"
    fi
    wheels="$work/$dataset/wheels"
    [ ! -e "$wheels" ] || [ -e "$run/wheels" ] || ln -s ../wheels "$run/wheels"
    [ "$signal" = together ] && fused=1 || fused=""
    RECIPE="$run/recipe" SEEDS="$seed" TEACHERS= ASK="$ask" SIGNAL="$fused" bash "$here/recipe.sh" "$dataset" "" "$run" >&2
    [ -e "$wheels" ] || { mv "$run/wheels" "$wheels"; ln -s ../wheels "$run/wheels"; }
  done
done; done; done
python "$here/methods_table.py" "$work" -o "${2:-$work/result.json}"
