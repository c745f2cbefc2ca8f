"""Serves a model over HTTP: one process, or several that share a listening socket."""

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.base.output_lock import hold_lock
from sidtool.recommendation.serve.serve_options import Listening, ServeOptions, serve_options

_PREFIX = "sidtool-serve-"
_LOCK = ".partial.lock"


def serve(
    options: ServeOptions | str,
    listening: Listening | None = None,
    *,
    verbose: bool = False,
    started: Callable[[str], None] | None = None,
    **keywords: Any,
) -> None:
    """Serve a model until the process gets SIGTERM, then answer what was received and return. With
    the name of a model in place of the options, these and where to listen are keywords.

    `started` is called with the URL when calls are answered. Raises MissingPackageError without
    the extra `serve`, DataError if the address cannot be used, what `load_model_folder` raises if
    the model cannot be loaded, KeyboardInterrupt for SIGINT, and UsageError where an event loop
    runs, as in a cell of a notebook.

    Examples:
        >>> import os, signal
        >>> urls = []
        >>> def stop(url):
        ...     urls.append(url)
        ...     os.kill(os.getpid(), signal.SIGTERM)
        >>> sidtool.serve("tuned", port=0, k=3, started=stop)
        >>> urls[0].rpartition(":")[0]
        'http://127.0.0.1'
    """
    require("serve")
    _refuse_running_loop()
    from sidtool.recommendation.serve.log import log_to_stderr
    from sidtool.recommendation.serve.process import bound_socket, run_process, serve_with_workers
    from sidtool.recommendation.serve.service import Service, Sources

    options, listening = serve_options(options, listening, keywords)
    with (
        log_to_stderr(verbose=verbose),
        bound_socket(listening) as listener,
        service_folder() as folder,
    ):
        url = listening.url(listener.getsockname()[1])
        on_start = (lambda: started(url)) if started else None
        if listening.workers == 1:
            run_process(options, listener, Service.open(options, folder), on_start=on_start)
        else:
            Sources(options, folder).check()
            serve_with_workers(options, listening.workers, listener, str(folder), verbose, on_start)


def _refuse_running_loop() -> None:
    import asyncio

    with suppress(RuntimeError):  # there is none
        asyncio.get_running_loop()
        raise UsageError(
            "a service cannot run inside of an event loop, as that of a notebook",
            hint="threading.Thread(target=sidtool.serve, args=[...], daemon=True).start()",
        )


@contextmanager
def service_folder() -> Iterator[Path]:
    """A new folder, removed at the end. Folders of services that were killed are removed first:
    their locks are free."""
    temporary = Path(tempfile.gettempdir())
    for lock in temporary.glob(f"{_PREFIX}*{_LOCK}"):
        left = lock.with_name(lock.name.removesuffix(_LOCK))
        with suppress(UsageError, OSError), hold_lock(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = temporary / f"{_PREFIX}{uuid.uuid4().hex}"
    with hold_lock(folder):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
