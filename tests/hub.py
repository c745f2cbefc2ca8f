"""A server on this machine that answers like the Hugging Face hub: repositories are folders, and a
push is a commit of whole files. Binary files are uploaded by Git LFS before the commit, as the hub
asks for large ones."""

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Answer = tuple[dict[str, str], bytes]


@dataclass
class FakeHub:
    """The repositories of the server by name, and the files that were downloaded."""

    work: Path
    """where commits are stored"""
    endpoint: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    """the files of each at its last commit"""
    commits: dict[tuple[str, str], Path] = field(default_factory=dict)
    references: dict[tuple[str, str], str] = field(default_factory=dict)
    """the commit of each branch and tag that was pushed to"""
    downloads: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    """what was uploaded by Git LFS, by its SHA-256"""
    tokens: set[str] = field(default_factory=set)
    """the tokens of all requests"""

    def commit_of(self, name: str, revision: str) -> str:
        """The commit that a revision names: the first one unless something was pushed."""
        if (name, revision) in self.commits:
            return revision
        return self.references.get((name, revision), COMMIT)

    def files(self, name: str, commit: str) -> Path:
        """The files of a repository at a commit."""
        return self.commits.get((name, commit), self.repositories[name])

    def response(self, path: str, *, counted: bool) -> Answer | None:
        """Headers and body for a path; None if there is nothing."""
        for name in self.repositories:
            if path == f"/api/models/{name}":
                return self._info(name, "main")
            revision = path.removeprefix(f"/api/models/{name}/revision/")
            if revision != path:
                self.revisions.append(revision)
                return self._info(name, revision)
            tree = path.removeprefix(f"/api/models/{name}/tree/")
            if tree != path:
                revision, _, below = tree.partition("/")
                entries = _tree(self.files(name, self.commit_of(name, revision)))
                inside = [entry for entry in entries if str(entry["path"]).startswith(below)]
                return {}, json.dumps(inside).encode()
            resolved = path.removeprefix(f"/{name}/resolve/")
            if resolved != path:
                revision, _, file_name = resolved.partition("/")
                commit = self.commit_of(name, revision)
                file = self.files(name, commit) / file_name
                if not file.is_file():
                    return None
                if counted:
                    self.downloads.append(file_name)
                return {"X-Repo-Commit": commit, "ETag": f'"{_oid(file)}"'}, file.read_bytes()
        return None

    def _info(self, name: str, revision: str) -> Answer:
        commit = self.commit_of(name, revision)
        names = [{"rfilename": entry["path"]} for entry in _tree(self.files(name, commit))]
        return {}, json.dumps({"id": name, "sha": commit, "siblings": names}).encode()

    def posted(self, path: str, body: bytes) -> Answer | None:
        """The answer to a request that changes something."""
        if path == "/api/validate-yaml":
            return {}, b'{"errors": [], "warnings": []}'
        if path == "/api/repos/create":
            value = json.loads(body)
            name = "/".join(filter(None, (value.get("organization"), value["name"])))
            if name not in self.repositories:
                self.repositories[name] = self.work / name
                self.repositories[name].mkdir(parents=True)
            return {}, json.dumps({"url": f"{self.endpoint}/{name}"}).encode()
        for name in self.repositories:
            if path == f"/{name}.git/info/lfs/objects/batch":
                return {}, json.dumps(self._transfers(json.loads(body)["objects"])).encode()
            action, _, revision = path.removeprefix(f"/api/models/{name}/").partition("/")
            if action == "branch":
                head = self.commit_of(name, "main")
                self.references.setdefault((name, revision), head)
                return {}, b"{}"
            if action == "tag":
                tag = json.loads(body)["tag"]
                self.references[name, tag] = self.commit_of(name, revision)
                return {}, b"{}"
            if action == "paths-info":
                stored = _tree(self.files(name, self.commit_of(name, revision)))
                wanted = json.loads(body)["paths"]
                return {}, json.dumps([file for file in stored if file["path"] in wanted]).encode()
            if action == "preupload":
                folder = self.files(name, self.commit_of(name, revision))
                modes = [_mode(folder / file["path"], file) for file in json.loads(body)["files"]]
                return {}, json.dumps({"files": modes}).encode()
            if action == "commit":
                return {}, json.dumps(self._commit(name, revision, body)).encode()
        return None

    def _transfers(self, objects: list[dict[str, Any]]) -> dict[str, Any]:
        """Where each object goes; one that was uploaded before goes nowhere."""
        missing = [entry for entry in objects if entry["oid"] not in self.large]
        where = {entry["oid"]: {"href": f"{self.endpoint}/lfs/{entry['oid']}"} for entry in missing}
        uploads = [{**entry, "actions": {"upload": where[entry["oid"]]}} for entry in missing]
        uploaded = [entry for entry in objects if entry["oid"] in self.large]
        return {"transfer": "basic", "objects": [*uploads, *uploaded]}

    def _commit(self, name: str, revision: str, body: bytes) -> dict[str, Any]:
        before = self.commit_of(name, revision)
        commit = hashlib.sha1(before.encode() + body).hexdigest()
        folder = self.work / commit
        shutil.copytree(self.files(name, before), folder)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            path = folder / value.get("path", "")
            if entry["key"] == "header":
                assert value.get("parentCommit") == before
            elif entry["key"] == "deletedFile":
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                is_large = entry["key"] == "lfsFile"
                stored = self.large[value["oid"]] if is_large else value["content"]
                path.write_bytes(stored if is_large else base64.b64decode(stored))
        self.commits[name, commit] = folder
        self.references[name, revision] = commit
        return {"commitUrl": f"{self.endpoint}/{name}/commit/{commit}", "commitOid": commit}


def _tree(folder: Path) -> Iterator[dict[str, object]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            yield {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path)}


def _mode(stored: Path, file: dict[str, Any]) -> dict[str, Any]:
    """How a file is uploaded, and the id of what is stored under its name."""
    mode: dict[str, Any] = {"path": file["path"], "shouldIgnore": False}
    if b"\0" in base64.b64decode(file["sample"]):
        oid = hashlib.sha256(stored.read_bytes()).hexdigest() if stored.is_file() else None
        return mode | {"uploadMode": "lfs", "oid": oid}
    return mode | {"uploadMode": "regular", "oid": _oid(stored) if stored.is_file() else None}


def _oid(path: Path) -> str:
    """The id of a file's content in Git, which the client compares with."""
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@contextmanager
def serve_hub(cache: Path) -> Iterator[FakeHub]:
    """Serve a hub without repositories; the hub's client uses it, with a cache at `cache`."""
    from huggingface_hub import HfFileSystem

    hub = FakeHub(cache.with_name(f"{cache.name}-hub"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(hub.response(self._path, counted=True), with_body=True)

        def do_HEAD(self) -> None:
            self._answer(hub.response(self._path, counted=False), with_body=False)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(hub.posted(self._path, body), with_body=True)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            oid = self._path.removeprefix("/lfs/")
            assert hashlib.sha256(body).hexdigest() == oid
            hub.large[oid] = body
            self._answer(({}, b"{}"), with_body=True)

        def do_DELETE(self) -> None:
            name, _, tag = self._path.removeprefix("/api/models/").partition("/tag/")
            commit = hub.references.pop((name, tag), None)
            self._answer(({}, b"{}") if commit else None, with_body=True, error="RevisionNotFound")

        def log_message(self, *_: object) -> None:
            pass

        @property
        def _path(self) -> str:
            return unquote(urlsplit(self.path).path)

        def _answer(
            self, answer: Answer | None, *, with_body: bool, error: str = "RepoNotFound"
        ) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            headers, body = answer or ({"X-Error-Code": error}, b"{}")
            self.send_response(200 if answer else 404)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.endpoint = endpoint = f"http://127.0.0.1:{server.server_port}"
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        constants = "huggingface_hub.constants"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{constants}.ENDPOINT", endpoint)
            patch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
            patch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)  # a protocol of its own
            HfFileSystem.clear_instance_cache()  # they know another server
            yield hub
        HfFileSystem.clear_instance_cache()
        server.shutdown()
