"""Call a service from Python, with the standard library only.

    sidtool serve tuned &
    python examples/serve/client.py http://127.0.0.1:8000 b001,b002

TOKEN is the bearer token, if the service has one."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

ATTEMPTS = 5


def post(url: str, body: Any) -> Any:
    """The answer to a call. Waits and tries again where the service asks for it, or where a
    connection broke: a call changes nothing, so it may be repeated."""
    content = json.dumps(body).encode()
    headers = {"authorization": f"Bearer {os.environ.get('TOKEN', '')}"}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            request = urllib.request.Request(url, content, headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            # Ray's proxy answers so for a replica that ended
            is_lost = error.code == 500 and not text.startswith("{")
            if not (is_lost or error.code in (429, 503)) or attempt == ATTEMPTS:
                message = json.loads(text)["error"] if text.startswith("{") else text
                raise SystemExit(f"{error.code}: {message}") from None
            time.sleep(float(error.headers.get("retry-after", "1")))
        except (urllib.error.URLError, ConnectionError) as error:
            if attempt == ATTEMPTS:
                raise SystemExit(f"{url}: {error}") from None
            time.sleep(0.2 * attempt)


def main(url: str, history: str) -> None:
    """Print the items that a history leads to."""
    answer = post(f"{url}/v1/recommend", {"history": history.split(","), "k": 5})
    for item, title, score in zip(answer["items"], answer["titles"], answer["scores"], strict=True):
        sys.stdout.write(f"{item}\t{score:.3f}\t{title}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
