"""Serves a model by replicas of Ray Serve.

Batches, limits, tokens, exchanges, health and metrics are those of the application of
`sidtool.recommendation.serve`, which each replica has. Ray's proxy has the port and divides calls
among the replicas, and Ray replaces those that end."""

import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from sidtool.base.errors import DataError, MissingPackageError, SidtoolError, UsageError, first_line
from sidtool.base.extras import require
from sidtool.integrations.cluster.engines import RESTARTS, actor_resources, ray_cluster
from sidtool.recommendation.serve import Listening, ServeOptions, serve_options

NAME = "sidtool"
"""The name of the application in Ray Serve."""
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
"""What Ray Serve logs; the replicas log their calls as workers do."""
DRAIN_LOOP_SECONDS = 0.5
"""How often a replica that ends looks whether it has answered its calls."""
SIGNAL_SECONDS = 0.5
"""How often to look whether the end was requested."""
POLL_SECONDS = 5.0
"""How often to look whether the application is still there."""
REMOVE_SECONDS = 10.0
"""How long to wait for other machines to remove what replicas left."""

log = logging.getLogger(__name__)


def serve_on_ray(
    options: ServeOptions | str,
    listening: Listening | None = None,
    *,
    verbose: bool = False,
    started: Callable[[str], None] | None = None,
    **keywords: Any,
) -> None:
    """Serve a model by `listening.workers` replicas of Ray Serve until the process gets SIGTERM,
    then answer what was received and return. The cluster is that of RAY_ADDRESS, or one on this
    machine that ends, too. Options and keywords are those of `serve`.

    Paths must be those of every machine. `started` is called with the URL when calls are answered.
    Raises MissingPackageError without the extras `serve` and `ray`, DataError if there is no
    cluster, if Ray Serve runs on it already or if the address cannot be used, what
    `load_model_folder` raises if the model cannot be loaded, and KeyboardInterrupt for SIGINT.

    Examples:
        >>> sidtool.serve_on_ray("no-such-model")
        Traceback (most recent call last):
        sidtool.base.errors.DataError: there is no model at no-such-model
        sidtool serve MODEL, the folder of extend-model, train or rl
    """
    require("serve")
    require("ray")
    from sidtool.recommendation.serve import Sources, bound_socket, log_to_stderr

    options, listening = serve_options(options, listening, keywords)
    with tempfile.TemporaryDirectory(prefix="sidtool-serve-") as copies:
        Sources(options, Path(copies)).check()
    try:
        import ray
        import ray.serve
    except ImportError as error:  # Ray may be there without the packages of Ray Serve
        message = "ray[serve] is not installed: pip install 'sidtool[ray]'"
        raise MissingPackageError(message) from error
    is_shared = "RAY_ADDRESS" in os.environ or ray.is_initialized()
    if not is_shared:
        with bound_socket(listening) as listener:  # finds a free port for 0
            listening = replace(listening, port=int(listener.getsockname()[1]))
    elif not listening.port:  # other machines have other free ones
        raise UsageError("--port 0 is for one machine: a cluster needs a port")
    folder = Path(tempfile.gettempdir()) / f"sidtool-serve-{uuid.uuid4().hex}"
    with log_to_stderr(verbose=verbose), ray_cluster(listening.workers) as cluster:
        try:
            n_cpus = int(cluster.cluster_resources().get("CPU", 0))
            if n_cpus < listening.workers:
                log.warning(
                    "%d replicas wait for a CPU each: the cluster has %d", listening.workers, n_cpus
                )
            resources = actor_resources(cluster, listening.workers)
            application = _application(
                options, listening.workers, resources, str(folder), verbose=verbose
            )
            _serve(application, options.limits.seconds, listening, started)
        finally:
            if is_shared:
                _remove_elsewhere(cluster, folder)
            shutil.rmtree(folder, ignore_errors=True)


class _HealthCheck:
    """The class of a replica, to which Ray Serve adds the application."""

    app: Any

    def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises."""
        if not self.app.state.service.batcher.is_alive:
            raise RuntimeError("the last batch failed")


def _application(
    options: ServeOptions,
    n_replicas: int,
    resources: dict[str, float],
    folder: str,
    *,
    verbose: bool,
) -> Any:
    """The application of Ray Serve. `folder` is for files of the replicas of a machine, and does
    not exist yet; `resources` are those of a replica."""
    from ray import serve

    from sidtool.recommendation.serve import (
        DRAIN_SECONDS,
        FOLDER_VARIABLE,
        SPARE_CONNECTIONS,
        threads_per_worker,
    )

    metrics = str(Path(folder) / "metrics")
    n_threads = threads_per_worker(n_replicas)

    def build() -> Any:  # Ray calls it in the replica
        from sidtool.recommendation.serve import Service, become_worker, make_app, start_log

        Path(folder).mkdir(mode=0o700, exist_ok=True)
        Path(metrics).mkdir(exist_ok=True)
        become_worker(folder, n_threads)
        start_log(verbose=verbose)
        # opened here, since Ray does not report why a lifespan ends
        return make_app(options, Service.open(options, Path(tempfile.mkdtemp())))

    limits = options.limits
    deployment = serve.deployment(
        serve.ingress(build)(_HealthCheck),
        name=NAME,
        num_replicas=n_replicas,
        # prometheus_client reads the variable when it is imported
        ray_actor_options={**resources, "runtime_env": {"env_vars": {FOLDER_VARIABLE: metrics}}},
        # the application refuses what is too much, and batches what it has
        max_ongoing_requests=limits.max_waiting + SPARE_CONNECTIONS,
        max_queued_requests=limits.max_waiting,
        graceful_shutdown_wait_loop_s=DRAIN_LOOP_SECONDS,
        graceful_shutdown_timeout_s=limits.seconds + DRAIN_SECONDS,
        max_constructor_retry_count=RESTARTS,
        logging_config=LOGGING,
    )
    return deployment.bind()


def _serve(
    application: Any, seconds: float, listening: Listening, started: Callable[[str], None] | None
) -> None:
    """Deploy, wait for SIGTERM or SIGINT, drain. Calls take `seconds` at most."""
    from ray import serve

    from sidtool.recommendation.serve import DRAIN_SECONDS, KEEP_ALIVE_SECONDS

    status = serve.status()
    if status.proxies or status.applications:
        names = ", ".join(status.applications) or "no application"
        raise DataError(
            f"Ray Serve runs on the cluster already, with its own address and {names}",
            hint="`serve shutdown` ends it; a cluster serves one model",
        )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    http = {
        "host": listening.host,
        "port": listening.port,
        # seconds of Ray's own, beyond those in which a replica refuses: of the body and the answer
        "request_timeout_s": 2 * seconds + DRAIN_SECONDS,
        "keep_alive_timeout_s": KEEP_ALIVE_SECONDS,
    }
    with _Ending() as ending:
        try:
            try:
                serve.start(http_options=http, logging_config=LOGGING)
            except Exception as error:  # Ray raises bare ones
                raise DataError(f"Ray Serve does not start: {first_line(error)}") from error
            try:
                serve.run(application, name=NAME, route_prefix="/")
            except Exception as error:
                ours = re.search(r"sidtool\.base\.errors\.\w+: (.+)", str(error))
                reason = first_line(error) if ours is None else ours[1]
                raise SidtoolError(f"no replica can start: {reason}") from error
            ending.is_immediate = False
            if started is not None:
                started(listening.url(listening.port))
            _wait(ending)
        finally:
            _drain(seconds + DRAIN_SECONDS)


class _Terminated(BaseException):
    """The process got SIGTERM."""


class _Ending:
    """Within the block, SIGTERM requests the end: at once by _Terminated, which ends the block
    without an error, or, from when on `is_immediate` is false, by `is_requested`."""

    def __init__(self) -> None:
        self.is_immediate = True
        self.is_requested = False

    def __enter__(self) -> Self:
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        return kind is _Terminated

    def _request(self, *_: object) -> None:
        self.is_requested = True
        if self.is_immediate:
            self.is_immediate = False
            raise _Terminated


def _wait(ending: _Ending) -> None:
    """Wait for the end. Raises SidtoolError if the application or the cluster ends before."""
    from ray import serve

    looked = time.monotonic()
    while not ending.is_requested:
        time.sleep(SIGNAL_SECONDS)
        if time.monotonic() < looked + POLL_SECONDS:
            continue
        looked = time.monotonic()
        try:
            is_there = NAME in serve.status().applications
        except Exception as error:
            raise SidtoolError(f"the Ray cluster cannot be reached: {first_line(error)}") from error
        if not is_there:
            raise SidtoolError("the application was deleted from the Ray cluster")


def _drain(seconds: float) -> None:
    """Delete the application, which takes no further calls and ends when its calls are answered,
    and end Ray Serve unless it has other applications."""
    from ray import serve

    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                serve.delete(NAME)
                break
            except TimeoutError:  # after a minute
                if time.monotonic() > deadline:
                    break
        if not serve.status().applications:
            serve.shutdown()
    except Exception as error:  # a cluster that is gone has nothing to drain
        log.warning("the Ray cluster does not drain: %s", first_line(error))


def _remove_elsewhere(ray: Any, folder: Path) -> None:
    """Remove the folder of the replicas on all machines of a cluster."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remove = ray.remote(num_cpus=0)(shutil.rmtree)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    placements = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    tasks = [
        remove.options(scheduling_strategy=placement).remote(folder, True)
        for placement in placements
    ]
    ray.wait(tasks, num_returns=len(tasks), timeout=REMOVE_SECONDS)
