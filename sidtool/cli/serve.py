"""The serve command."""

import os
import shlex
from pathlib import Path
from typing import Annotated

from sidtool.base.documents import read_document
from sidtool.base.errors import DataError, UsageError
from sidtool.base.extras import require
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import is_verbose, next_step, note, say, say_json, warn
from sidtool.integrations import cluster
from sidtool.integrations.cluster import EngineOptions
from sidtool.recommendation import ItemOptions, RecommendOptions
from sidtool.recommendation import serve as serving
from sidtool.recommendation.serve import Listening, ServiceOptions

TOKEN_VARIABLE = "SIDTOOL_TOKEN"


def serve(
    model: options.LoadedModel,
    items: ItemOptions,
    service: ServiceOptions,
    listening: Listening,
    engine: EngineOptions,
    token_file: Annotated[
        Path | None,
        "File of the bearer token that calls need. Default: the value of the variable "
        f"{TOKEN_VARIABLE}, if it is set.",
    ] = None,
    json: options.Json = False,
) -> None:
    """Serve a model over HTTP: recommend, score, encode and decode, with requests of many clients
    in one batch.

    If a tag moves, or the model, bundle or memory at its location changes, the service checks the
    new version and switches to it without losing a request; a version that does not fit is refused.
    On SIGTERM it answers what it has received and exits. Prints the URL."""
    require("serve")
    token = _token(token_file)
    if token is None and listening.host not in ("127.0.0.1", "::1", "localhost"):
        warn(f"{listening.host} can be reached from other machines, and calls need no token")
    answered = RecommendOptions(**vars(items))
    served = serving.ServeOptions(model, answered, token, **vars(service))

    def say_started(url: str) -> None:
        if json:
            say_json({"url": url})
        else:
            say(url)
        note(f"serving {model}; {url}/openapi.json describes the endpoints, Ctrl-C or SIGTERM ends")
        next_step(example_call(url, token_file, has_token=token is not None))

    run = {"local": serving.serve, "ray": cluster.serve_on_ray}[engine.engine]
    run(served, listening, verbose=is_verbose(), started=say_started)


def example_call(url: str, token_file: Path | None, *, has_token: bool) -> str:
    """A call of the service for a shell, with an item to name: many models answer an empty history
    with nothing. The token itself is not shown."""
    call = f'curl {url}/v1/recommend --data \'{{"history": ["ITEM"]}}\''
    if not has_token:
        return call
    token = f"${TOKEN_VARIABLE}" if token_file is None else f"$(cat {shlex.quote(str(token_file))})"
    return f'{call} -H "Authorization: Bearer {token}"'


def _token(path: Path | None) -> str | None:
    """The bearer token of the file or the variable. Raises DataError or UsageError."""
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE)
        source = f"the variable {TOKEN_VARIABLE}"
    else:
        source = str(path)
        try:
            token = read_document(path).decode("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a token: {error}") from error
    if token is not None and not token:
        raise UsageError(f"{source} has no token")
    return token
