"""What a service serves, and what it accepts."""

from dataclasses import dataclass, field

from sidtool.base.errors import UsageError
from sidtool.model.memory import MemoryOptions
from sidtool.model.pretrained import Dtype
from sidtool.recommendation.recommend_options import RecommendOptions

CPU_BATCH_TOKENS = 1 << 12
"""On a CPU the values of a wider batch leave its caches: 80 requests of 200 tokens cost a sixth
more each than 24 (`benchmarks/serve.py queue`), and what comes meanwhile waits for the batch."""
GPU_BATCH_TOKENS = 1 << 14


@dataclass(frozen=True)
class ServeLimits:
    """What a service accepts and how it batches. Raises UsageError for a value out of range."""

    batch_tokens: int | None = None
    """Tokens of one batch: as many prompts as fit, each as long as the longest, with their
    beams. None is 4,096 on a CPU and 16,384 on a GPU."""
    batch_seconds: float = 0.002
    """How long the first request of a batch waits for others while the model is idle."""
    max_waiting: int = 1024
    """Requests that may wait for the model; more are refused with 429."""
    max_body: int = 1 << 20
    """Bytes of the body of a call; a longer one is refused with 413."""
    max_beams: int = 256
    """The most items or beams that a request may ask for: memory grows with their square."""
    seconds: float = 30.0
    """How long a call may take, its body included; then it is refused with 408 or 503."""

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_waiting", "max_body", "max_beams"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.seconds > 0:
            raise UsageError(f"the time limit must be more than 0 seconds, not {self.seconds}")
        if not 0 <= self.batch_seconds <= self.seconds:
            raise UsageError(
                f"a request waits 0 to {self.seconds} seconds for a batch, not {self.batch_seconds}"
            )

    def tokens_of_batch(self, device: str) -> int:
        """Tokens of one batch on a kind of device, such as "cpu"."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        return CPU_BATCH_TOKENS if device == "cpu" else GPU_BATCH_TOKENS


@dataclass(frozen=True)
class ServeOptions:
    """A model, what it is used with, and how requests are answered. Raises UsageError."""

    model: str
    """A model folder, `hf://ORG/NAME`, or a published model URL/NAME[@VERSION|@TAG]."""
    bundle: str | None = None
    """A newer, compatible bundle in place of the model's own: a path, URL or reference."""
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    device: str | None = None
    dtype: Dtype | None = None
    trust_remote_code: bool = False
    recommend: RecommendOptions = field(default_factory=RecommendOptions)
    """Options of requests that do not have their own; allow and deny lists hold for all."""
    encoder: str | None = None
    """Where the bundle's encoder is, if it moved."""
    limits: ServeLimits = field(default_factory=ServeLimits)
    poll_seconds: float = 10.0
    """How often the service looks for a newer model, bundle or memory at their locations."""
    token: str | None = field(default=None, repr=False)
    """The bearer token that calls must have; None admits everyone."""

    def __post_init__(self) -> None:
        if not self.poll_seconds > 0:
            raise UsageError(f"--poll must be more than 0 seconds, not {self.poll_seconds}")
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

    host: str = "127.0.0.1"
    """An address of this machine; the default can be reached from this machine only."""
    port: int = 8000
    """0 for any free one."""
    workers: int = 1
    """Processes, each with the model."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"a service has at least 1 worker, not {self.workers}")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"a port is a number from 0 to 65535, not {self.port}")

    def url(self, port: int) -> str:
        """The URL at a port of the address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"
