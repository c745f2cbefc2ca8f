"""The serve command."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from sidtool.base.errors import DataError, UsageError
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import is_verbose, next_step, note, say, say_json, warn
from sidtool.model.memory import MemoryOptions
from sidtool.model.model_options import ModelOptions
from sidtool.recommendation.recommend_options import ItemOptions, RecommendOptions

TOKEN_VARIABLE = "SIDTOOL_TOKEN"
LIMITS = "Limits"


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model folder, hf://ORG/NAME, or a published model URL/NAME@TAG.",
        ),
    ],
    items: ItemOptions,
    memory: MemoryOptions,
    use: ModelOptions,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reached from this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.")] = 8000,
    engine: options.Engine = "local",
    workers: Annotated[
        int,
        typer.Option(
            help="Processes, or replicas of Ray Serve, each with its own copy of the model.",
            rich_help_panel="Workers",
        ),
    ] = 1,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File of the bearer token that calls need. Default: the value of the variable "
            f"{TOKEN_VARIABLE}, if it is set."
        ),
    ] = None,
    poll: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How often to look for a newer model, bundle or memory at its location or tag.",
        ),
    ] = 10.0,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a batch: prompts and their beams, each as long as the longest. "
            "Default: 4096 on a CPU, 16384 on a GPU.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    batch_wait: Annotated[
        float,
        typer.Option(
            metavar="MS",
            help="Milliseconds that a request waits for others while the model is idle.",
            rich_help_panel=LIMITS,
        ),
    ] = 2.0,
    max_waiting: Annotated[
        int,
        typer.Option(
            help="Requests that may wait; more are refused with 429.", rich_help_panel=LIMITS
        ),
    ] = 1024,
    max_body: Annotated[
        str, typer.Option(help="Size of the largest body of a call.", rich_help_panel=LIMITS)
    ] = "1MiB",
    max_beams: Annotated[
        int,
        typer.Option(
            help="The most items or beams that a request may ask for.", rich_help_panel=LIMITS
        ),
    ] = 256,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How long a call may take; at the end, how long to wait for answers.",
            rich_help_panel=LIMITS,
        ),
    ] = 30.0,
    encoder: options.MovedEncoder = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Serve a model over HTTP: recommend, score, encode and decode, with requests of many clients
    in one batch.

    If a tag moves, or the model, bundle or memory at its location changes, the service checks the
    new version and switches to it without losing a request; a version that does not fit is refused.
    On SIGTERM it answers what it has received and exits. Prints the URL."""
    from sidtool.base.extras import require

    require("serve")
    from sidtool.integrations.ray.ray_service import serve_on_ray
    from sidtool.recommendation.serve.serve_options import Listening, ServeLimits, ServeOptions
    from sidtool.recommendation.serve.start import serve as serve_model

    token = _token(token_file)
    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        warn(f"{host} can be reached from other machines, and calls need no token")
    limits = ServeLimits(
        batch_tokens=batch_tokens,
        batch_seconds=batch_wait / 1000,
        max_waiting=max_waiting,
        max_body=options.parse_bytes(max_body),
        max_beams=max_beams,
        seconds=timeout,
    )
    served = ServeOptions(
        model,
        bundle=use.bundle,
        memory=memory,
        device=use.device,
        dtype=use.dtype,
        trust_remote_code=use.trust_remote_code,
        recommend=RecommendOptions(**vars(items)),
        encoder=encoder,
        limits=limits,
        poll_seconds=poll,
        token=token,
    )

    def say_started(url: str) -> None:
        if json:
            say_json({"url": url})
        else:
            say(url)
        note(f"serving {model}; {url}/docs lists the endpoints, Ctrl-C or SIGTERM ends")
        next_step(example_call(url, token_file, has_token=token is not None))

    run = serve_on_ray if engine == "ray" else serve_model
    run(served, Listening(host, port, workers), verbose=is_verbose(), started=say_started)


def example_call(url: str, token_file: Path | None, *, has_token: bool) -> str:
    """A call of the service for a shell; the token itself is not shown."""
    call = f"curl {url}/v1/recommend --data '{{\"history\": []}}'"
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
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a token: {error}") from error
    if token is not None and not token:
        raise UsageError(f"{source} has no token")
    return token
