"""A real S3 over HTTP on loopback (moto's server), which counts what goes over the wire."""

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from moto.moto_server import threaded_moto_server

BUCKET = "bucket"


def empty_folder(request: pytest.FixtureRequest) -> str:
    """The URL of an empty folder in the store that a fixture's parameter names, memory or s3."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"{request.param}://{BUCKET}/{uuid.uuid4().hex}"


@dataclass
class Wire:
    """Every request so far, by method and path."""

    endpoint: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def paths(self, method: str) -> list[str]:
        """The paths of the requests with a method."""
        return [path for verb, path in self.requests if verb == method]


def watched(wire: Wire) -> Callable[[Any], Any]:
    """moto's S3, counted. A PUT is one step, as on S3: moto checks a condition and writes without a
    lock."""

    def make(create_app: Callable[[str], Any]) -> Any:
        # moto's own application looks for the service of each request among 180 folders
        app = create_app("s3")

        def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            with wire.lock:
                parts = [bytes(part) for part in app(environ, start_response)]
                wire.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
                return parts

        return answer

    return make


@contextmanager
def serve() -> Iterator[Wire]:
    """Start the server on a free port, point every client of this process and its children at it,
    make a bucket."""
    wire = Wire()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threaded_moto_server, "DomainDispatcherApplication", watched(wire))
        server = threaded_moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        wire.endpoint = "http://{}:{}".format(*server.get_host_and_port())
        patch.setenv("AWS_ENDPOINT_URL", wire.endpoint)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.delenv("AWS_PROFILE", raising=False)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield wire
        server.stop()
