"""One replica of Ray Serve: a process with the application of one worker of `sidtool serve`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.integrations.ray.engine import RESTARTS, actor_resources
from sidtool.recommendation.serve import ServeOptions

NAME = "sidtool"
"""The name of the application in Ray Serve."""
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
"""What Ray Serve logs; the replicas log their calls as workers do."""
DRAIN_LOOP_SECONDS = 0.5
"""How often a replica that ends looks whether it has answered its calls."""


@dataclass(frozen=True)
class Replica:
    """What every replica is given."""

    options: ServeOptions
    folder: str
    """For files of the replicas of a machine; does not exist yet."""
    verbose: bool
    n_threads: int | None

    def open_app(self) -> Any:
        """The application of the process in which it is called, which becomes a worker. Raises as
        `Service.open`."""
        from sidtool.recommendation.serve import Service, become_worker, make_app, start_log

        Path(self.folder).mkdir(mode=0o700, exist_ok=True)
        Path(_metrics(self.folder)).mkdir(exist_ok=True)
        become_worker(self.folder, self.n_threads)
        start_log(verbose=self.verbose)
        # opened here, since Ray does not report why a lifespan ends
        service = Service.open(self.options, Path(tempfile.mkdtemp()))
        return make_app(self.options, service)

    def deployment(self, ray: Any, n_replicas: int) -> Any:
        """The application of Ray Serve."""
        from ray import serve

        from sidtool.recommendation.serve import DRAIN_SECONDS, FOLDER_VARIABLE, SPARE_CONNECTIONS

        def build() -> Any:  # Ray takes a function only, and calls it in the replica
            return self.open_app()

        limits = self.options.limits
        deployment = serve.deployment(
            serve.ingress(build)(_HealthCheck),
            name=NAME,
            num_replicas=n_replicas,
            # prometheus_client reads the variable when it is imported
            ray_actor_options={
                **actor_resources(ray, n_replicas),
                "runtime_env": {"env_vars": {FOLDER_VARIABLE: _metrics(self.folder)}},
            },
            # the application refuses what is too much, and batches what it has
            max_ongoing_requests=limits.max_waiting + SPARE_CONNECTIONS,
            max_queued_requests=limits.max_waiting,
            graceful_shutdown_wait_loop_s=DRAIN_LOOP_SECONDS,
            graceful_shutdown_timeout_s=limits.seconds + DRAIN_SECONDS,
            max_constructor_retry_count=RESTARTS,
            logging_config=LOGGING,
        )
        return deployment.bind()


class _HealthCheck:
    """The class of a replica, to which Ray Serve adds the application."""

    app: Any

    def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises."""
        if not self.app.state.service.is_alive:
            raise RuntimeError("the thread of the model has ended")


def _metrics(folder: str) -> str:
    return str(Path(folder) / "metrics")
