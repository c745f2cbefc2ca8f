#!/usr/bin/env bash
# The road on Amazon Beauty 2014 (leave-one-out, full ranking, item level), as TIGER and S3-Rec split it: three seeds.
# Usage: [SEEDS="0 1 2"] [INDEX=MAP] beauty.sh [DATA_DIR [WORK_DIR [RESULT.json]]]; see recipe.sh, which does the work.
# SASREC=1 trains the rival with item ids too (an hour or so a seed). The result goes to WORK_DIR/result.json unless named.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
name="$(basename "${INDEX:-}" .index.json)"
data="${1:-${SIDTOOL_SHARED_DATA:-../shared/data}/beauty}"; work="${2:-benchmarks/work/beauty${name:+-$name}}"
export PATH="$here/../.venv/bin:$PATH"
bash "$here/recipe.sh" beauty "$data" "$work"
if [ -n "${SASREC:-}" ]; then
  # shellcheck disable=SC2086
  python "$here/sasrec.py" "$work/bundle.zarr" "$work/sft/train.jsonl" -o "$work/sasrec.json" --seeds ${SEEDS:-0 1 2}
fi
python "$here/summary.py" "$work" -o "${3:-$work/result.json}"
