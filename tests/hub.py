"""A server on this machine that answers like the Hugging Face hub: repositories are folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """The repositories of the server by name, and the files that were downloaded."""

    repositories: dict[str, Path] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)

    def response(self, path: str, *, counted: bool) -> tuple[dict[str, str], bytes] | None:
        """Headers and body for a path; None if there is nothing."""
        for name, folder in self.repositories.items():
            if path.startswith(f"/api/models/{name}/revision/"):
                self.revisions.append(path.rpartition("/")[2])
                return {}, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode()
            if path == f"/api/models/{name}/tree/{COMMIT}":
                return {}, json.dumps(list(_tree(folder))).encode()
            prefix = f"/{name}/resolve/{COMMIT}/"
            file = folder / path.removeprefix(prefix)
            if path.startswith(prefix) and file.is_file():
                if counted:
                    self.downloads.append(path.removeprefix(prefix))
                return {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(file)}"'}, file.read_bytes()
        return None


def _tree(folder: Path) -> Iterator[dict[str, object]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            yield {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path)}


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serve_hub(cache: Path) -> Iterator[FakeHub]:
    """Serve a hub without repositories; the hub's client uses it, with a cache at `cache`."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            answer = hub.response(path, counted=with_body)
            headers, body = answer or ({"X-Error-Code": "RepoNotFound"}, b"{}")
            self.send_response(200 if answer else 404)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        constants = "huggingface_hub.constants"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{constants}.ENDPOINT", endpoint)
            patch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
            yield hub
        server.shutdown()
