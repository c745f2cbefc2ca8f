#!/usr/bin/env bash
# A catalog, events and requests by the workers of a Ray cluster.
#
#     run.sh ITEMS EVENTS REQUESTS ENCODER MODEL OUT
#
# ITEMS, EVENTS and REQUESTS are folders of Parquet files, at paths or URLs that every worker can
# read: items with `item_id` and `title`, requests with `history`. ENCODER is a sentence-transformers
# model, MODEL an untrained one (`sidtool init-model`). Without RAY_ADDRESS a cluster of WORKERS
# workers (default 2) starts on this machine for each command.
set -euo pipefail
items=$1 events=$2 requests=$3 encoder=$4 model=$5 out=$6
ray=(--engine ray --workers "${WORKERS:-2}")

sidtool split "$events" -o "$out/split" "${ray[@]}"
sidtool embed "$items" --encoder "$encoder" -o "$out/vectors" "${ray[@]}"
sidtool build-codebook "$items" --embeddings "$out/vectors" -o "$out/shop.zarr" --memory 4GiB
sidtool extend-model "$model" "$out/shop.zarr" -o "$out/model+sid"
sidtool make-sft "$out/shop.zarr" "$items" "$out/split" --model "$out/model+sid" -o "$out/train.jsonl" "${ray[@]}"
sidtool build-memory "$out/split" "$out/shop.zarr" -o "$out/memory.zarr" "${ray[@]}"
sidtool train "$out/model+sid" "$out/train.jsonl" --set softmax_over=trie -o "$out/tuned"
sidtool evaluate "$out/tuned" "$out/split" --baseline-memory 4GiB "${ray[@]}"
sidtool recommend "$out/tuned" --file "$requests" -o "$out/recommended" "${ray[@]}"
