#!/usr/bin/env bash
# A catalog, events and requests by the workers of a Ray cluster.
#
#     run.sh ITEMS EVENTS REQUESTS ENCODER MODEL OUT
#
# ITEMS, EVENTS and REQUESTS are folders of Parquet files, at paths or URLs that every worker can
# read: items with `item_id` and `title`, requests with `history`. ENCODER is a sentence-transformers
# model, MODEL an untrained one (`sidtool init-model`). Without RAY_ADDRESS a cluster of WORKERS
# workers (default 2) starts on this machine for each command. PARTS, if it is set, divide the users.
# With CLUSTER=cluster.yaml a cluster is launched, and the script runs on its head node. The same call
# continues an interrupted run.
set -euo pipefail
if [ -n "${CLUSTER:-}" ]; then
  ray up --yes "$CLUSTER"
  ray rsync-up "$CLUSTER" "$0" run.sh
  exec ray exec "$CLUSTER" "RAY_ADDRESS=auto WORKERS=${WORKERS:-2} PARTS=${PARTS:-} bash run.sh $(printf '%q ' "$@")"
fi
items=$1 events=$2 requests=$3 encoder=$4 model=$5 out=$6
ray=(--engine ray --workers "${WORKERS:-2}")
parts=(${PARTS:+--parts "$PARTS"})

# an output is whole or absent: one that is there is not made again
unless() { [ -e "$1" ] || "${@:2}"; }

unless "$out/split" sidtool split "$events" -o "$out/split" --resume "${parts[@]}" "${ray[@]}"
unless "$out/vectors" sidtool embed "$items" --encoder "$encoder" -o "$out/vectors" --resume "${ray[@]}"
unless "$out/shop.zarr" sidtool build-codebook "$items" --embeddings "$out/vectors" -o "$out/shop.zarr" --memory-limit 4GiB "${ray[@]}"
unless "$out/model+sid" sidtool extend-model "$model" "$out/shop.zarr" -o "$out/model+sid"
unless "$out/examples" sidtool make-sft "$out/shop.zarr" "$items" "$out/split" --model "$out/model+sid" -o "$out/examples/" --resume "${ray[@]}"
unless "$out/memory.zarr" sidtool build-memory "$out/split" "$out/shop.zarr" -o "$out/memory.zarr" --resume "${ray[@]}"
unless "$out/tuned" sidtool train "$out/model+sid" "$out/examples" -o "$out/tuned"
sidtool evaluate "$out/tuned" "$out/split" --memory-limit 4GiB "${ray[@]}"
unless "$out/recommended" sidtool recommend "$out/tuned" --file "$requests" -o "$out/recommended" --resume "${ray[@]}"
