"""What a service serves, and what it accepts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.options import (
    check_options,
    group,
    option,
    options_from,
    parse_bytes,
    take_options,
)
from sidtool.memory.mixture import MemoryOptions
from sidtool.model import ModelOptions
from sidtool.recommendation.recommend_options import RecommendOptions


def _in_seconds(milliseconds: float) -> float:
    return milliseconds / 1000


@dataclass(frozen=True)
class ServeLimits:
    """What a service accepts and how it batches. Raises UsageError for a value out of range."""

    batch_tokens: int | None = option(None, minimum=1, panel="Limits")
    """Tokens of a batch: prompts and their beams, each as long as the longest. Default: 4096 on a
    CPU, 16384 on a GPU."""
    batch_seconds: float = option(
        0.002,
        minimum=0,
        reads=_in_seconds,
        default_text=2.0,
        flag="--batch-wait",
        metavar="MS",
        panel="Limits",
    )
    """Milliseconds that a request waits for others while the model is idle."""
    max_waiting: int = option(1024, minimum=1, panel="Limits")
    """Requests that may wait; more are refused with 429."""
    max_body: int = option(
        1 << 20, minimum=1, reads=parse_bytes, default_text="1MiB", panel="Limits"
    )
    """Size of the largest body of a call; a longer one is refused with 413."""
    max_beams: int = option(256, minimum=1, panel="Limits")
    """The most items or beams that a request may ask for: memory grows with their square."""
    seconds: float = option(30.0, above=0, flag="--timeout", metavar="SECONDS", panel="Limits")
    """How long a call may take, its body included; at the end, how long to wait for answers."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.batch_seconds > self.seconds:
            raise UsageError(
                f"a request waits 0 to {self.seconds} seconds for a batch, not {self.batch_seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class ServiceOptions(ModelOptions):
    """What a model is served with. Raises UsageError for a number out of range."""

    poll_seconds: float = option(10.0, above=0, flag="--poll", metavar="SECONDS")
    """How often to look for a newer model, bundle or memory at its location or tag."""
    memory: MemoryOptions = group(MemoryOptions)
    limits: ServeLimits = group(ServeLimits)
    encoder: str | None = option(None)
    """Present location of the bundle's encoder, if it moved."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class ServeOptions(ServiceOptions):
    """A model, what it is used with, and how requests are answered. Raises UsageError."""

    model: str
    """A model folder, `hf://ORG/NAME`, or a published model URL/NAME[@VERSION|@TAG]."""
    recommend: RecommendOptions = group(RecommendOptions)
    """Options of requests that do not have their own; allow and deny lists hold for all."""
    token: str | None = field(default=None, repr=False)
    """The bearer token that calls must have; None admits everyone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wide = max(self.recommend.k, self.recommend.num_beams)
        if wide > self.limits.max_beams:
            raise UsageError(
                f"requests have {wide} items or beams by default, and at most "
                f"{self.limits.max_beams} are allowed",
                hint="raise --max-beams",
            )
        if self.token is not None and not self.token.isascii():
            raise UsageError("the bearer token has characters that are not ASCII")


@dataclass(frozen=True)
class Listening:
    """Where a service listens. Raises UsageError for a number of workers or a port out of range."""

    host: str = option("127.0.0.1")
    """Address to listen on; the default is reached from this machine."""
    port: int = option(8000, minimum=0, maximum=65535)
    """Port to listen on; 0 takes any free one."""
    workers: int = option(1, minimum=1, panel="Workers")
    """Processes, or replicas of Ray Serve, each with its own copy of the model."""

    def __post_init__(self) -> None:
        check_options(self)

    def url(self, port: int) -> str:
        """The URL at a port of the address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"


def serve_options(
    options: ServeOptions | str, listening: Listening | None, keywords: Mapping[str, Any]
) -> tuple[ServeOptions, Listening]:
    """What to serve and where, of the arguments and keywords of `serve`. Raises UsageError."""
    others = dict(keywords)
    listening = options_from(Listening, take_options(Listening, listening, others), {})
    if isinstance(options, str):
        return options_from(ServeOptions, None, {"model": options, **others}), listening
    return options_from(ServeOptions, options, others), listening


@dataclass(frozen=True)
class Version:
    """What is at the locations of a service: the SHA-256 (hex) of each root document, which leads
    to those of all other objects. Empty for what is not there, or cannot change."""

    model: str
    bundle: str = ""
    memory: str = ""
