#!/usr/bin/env bash
# Call a service with curl:
#   sidtool serve tuned &
#   examples/serve/client.sh http://127.0.0.1:8000
# TOKEN is the bearer token, if the service has one.
set -euo pipefail
url=${1:-http://127.0.0.1:8000}

post() {
  curl --silent --show-error --fail-with-body --max-time 30 --retry 3 \
    --header "authorization: Bearer ${TOKEN:-}" --data-binary "$2" "$url$1"
  echo
}

curl --silent --show-error --fail-with-body "$url/readyz"
echo
# one request: the same keys as in a line of `sidtool recommend --file`, and options beside
post /v1/recommend '{"user": "u1", "history": ["b001", "b002"], "k": 3, "exclude_seen": true}'
# several, with options for all
post /v1/recommend '{"requests": [{"history": ["b001"]}, {"history": ["b002"], "deny": ["b003"]}], "k": 3}'
# exact scores of candidates
post /v1/score '{"history": ["b001"], "candidates": ["b002", "b003"]}'
# what semantic IDs stand for
post /v1/decode '{"texts": ["<s_a_1><s_b_2><s_c_3>"]}'
