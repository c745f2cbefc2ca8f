#!/usr/bin/env bash
# A model as replicas on a Ray cluster, until Ctrl-C or SIGTERM.
#
#     serve.sh MODEL TOKEN_FILE
#
# MODEL is a folder that every machine can read, or a published model URL/NAME@TAG. Without
# RAY_ADDRESS a cluster starts on this machine, and REPLICAS (default 2) run there. Calls need the
# bearer token of TOKEN_FILE: `TOKEN=$(cat TOKEN_FILE) python examples/serve/client.py URL b001,b002`.
set -euo pipefail
host=127.0.0.1
[ -z "${RAY_ADDRESS:-}" ] || host=0.0.0.0
exec sidtool serve "$1" --engine ray --workers "${REPLICAS:-2}" --host "$host" --token-file "$2"
