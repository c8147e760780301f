"""A small Hugging Face Hub on loopback, in a thread, for the real client of huggingface_hub.

It serves repositories in memory: information, file listings, files with ranges, gated repositories, uploads and
commits. It records all requests, and interrupts downloads if a test sets `broken`.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

TOKEN = "hf_secretTokenOfTheTests"
USER = "ann"
LFS_SUFFIXES = (".safetensors", ".bin", ".msgpack", ".parquet", ".tfrecord", ".model")


@dataclasses.dataclass
class Repository:
    """A repository: its commits, each with all files, and the commit of every branch and tag."""

    kind: str = "model"
    private: bool = False
    gated: bool = False  # downloads of its files are refused
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    revisions: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Adds a commit with these files and moves the revision to it. Returns its hash."""
        content = repr((len(self.commits), sorted(files.items())))
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name] = dict(files)
        self.revisions[revision] = name
        return name

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the branch main."""
        return self.commits[self.revisions["main"]]


class LoopbackHub(http.server.ThreadingHTTPServer):
    """Repositories by name, and all requests in order, each as "METHOD /path"."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.broken: dict[str, int] = {}  # file -> number of downloads to interrupt in the middle
        self.ranges: list[int] = []  # first bytes of requested ranges
        self.uploads: dict[str, bytes] = {}
        self.can_write = self.can_store = True  # False: writes to repositories, or uploads of LFS files, are refused
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: Mapping[str, bytes], **fields: bool) -> Repository:
        """Adds a repository with one commit."""
        self.repositories[name] = Repository(**fields)
        self.repositories[name].commit(files)
        return self.repositories[name]

    def take_requests(self) -> list[str]:
        """Returns the requests so far and forgets them."""
        taken, self.requests = self.requests, []
        return taken

    def handle_error(self, *about: object) -> None:
        """Ignores clients that disconnect early."""


class _HubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (names of http.server)

    def log_message(self, *parts: object) -> None:
        """Suppresses the log."""

    def _handle(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if path != "/api/agent-harnesses":  # a request of the client about its environment, which no test expects
            self.server.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                answer(self, **match.groupdict())
                return
        self._send(404)

    def _send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Content_Length") or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def _find(self, repo: str, revision: str = "main", write: bool = False) -> tuple[Repository, str] | None:
        """Returns a repository and a commit of it, or answers with an error."""
        found = self.server.repositories.get(repo)
        if found is None or (found.private and not self.authorized):
            self._send(404 if self.authorized else 401, X_Error_Code="RepoNotFound")
        elif write and not (self.authorized and self.server.can_write):
            self._send(403, X_Error_Message="You do not have write access")
        elif (commit := found.revisions.get(revision, revision)) not in found.commits:
            self._send(404, X_Error_Code="RevisionNotFound")
        else:
            return found, commit
        return None

    def info(self, repo: str, revision: str = "main", **_: str) -> None:
        if found := self._find(repo, revision):
            siblings = [{"rfilename": name} for name in found[0].commits[found[1]]]
            self._json({"id": repo, "sha": found[1], "private": found[0].private, "siblings": siblings})

    def tree(self, repo: str, revision: str, **_: str) -> None:
        if found := self._find(repo, revision):
            self._json([_entry(name, content) for name, content in found[0].commits[found[1]].items()])

    def auth_check(self, repo: str, write: str | None = None, **_: str) -> None:
        if found := self._find(repo, write=bool(write)):
            if found[0].gated:
                self._send(403, X_Error_Code="GatedRepo")
            else:
                self._send(200)

    def resolve(self, repo: str, revision: str, file: str, **_: str) -> None:
        if (found := self._find(repo, revision)) is None:
            return
        repository, commit = found
        if repository.gated:
            self._send(403 if self.authorized else 401, X_Error_Code="GatedRepo", X_Repo_Commit=commit)
        elif file not in repository.commits[commit]:
            self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            self._send_file(file, repository.commits[commit][file], commit)

    def _send_file(self, name: str, content: bytes, commit: str) -> None:
        entry = _entry(name, content)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        status, part = 200, content
        if (span := self.headers.get("Range")) and self.command == "GET":
            start = int(span.removeprefix("bytes=").partition("-")[0])
            self.server.ranges.append(start)
            status, part = 206, content[start:]
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content_Length"] = str(len(part))
        if self.command == "GET" and self.server.broken.get(name, 0) > 0:
            self.server.broken[name] -= 1
            self.close_connection = True
            part = part[: len(part) // 2]
        self._send(status, part, **headers)

    def create(self) -> None:
        fields = json.loads(self.body)
        name = f"{fields['organization'] or USER}/{fields['name']}"
        if not self.authorized or not self.server.can_write or not name.startswith(f"{USER}/"):
            self._send(403, b"{}", X_Error_Message="You do not have the rights to create this repository")
        elif name in self.server.repositories:
            self._json({"url": f"{self.server.url}/{name}"}, 409)
        else:
            private = fields.get("visibility") == "private" or bool(fields.get("private"))
            self.server.add(name, {}, kind=fields.get("type", "model"), private=private)
            self._json({"url": f"{self.server.url}/{name}"})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, repo: str, **_: str) -> None:
        if found := self._find(repo, write=True):
            modes = []
            for file in json.loads(self.body)["files"]:
                now = found[0].files.get(file["path"])
                mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
                oid = None if now is None else _entry(file["path"], now)["lfs" if mode == "lfs" else "blob"]["oid"]
                modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._json({"files": modes})

    def lfs_batch(self, repo: str, **_: str) -> None:
        if self._find(repo, write=True):
            objects = json.loads(self.body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{self.server.url}/lfs-objects/{each['oid']}"}}
            self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if self.server.can_store:
            self.server.uploads[oid] = self.body
        self._send(200 if self.server.can_store else 403)

    def make_commit(self, repo: str, **_: str) -> None:
        if (found := self._find(repo, write=True)) is None:
            return
        files = dict(found[0].files)
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = found[0].commit(files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}"})


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder as those of a repository, and two files that must not be downloaded."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return files | {"onnx/model.onnx": b"not read", "tf_model.h5": b"not read"}


def _entry(name: str, content: bytes) -> dict:
    """Returns the entry of a file in a listing."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": blob, "blob": {"oid": blob}}
    if name.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/(models|datasets)/{_REPO}"
_ROUTES = [
    (rf"GET {_API}", _HubHandler.info),
    (rf"GET {_API}/revision/(?P<revision>.+)", _HubHandler.info),
    (rf"GET {_API}/tree/(?P<revision>[^/]+)", _HubHandler.tree),
    (rf"GET {_API}/auth-check(?P<write>/write)?", _HubHandler.auth_check),
    (rf"(GET|HEAD) (/datasets)?/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _HubHandler.resolve),
    (r"POST /api/repos/create", _HubHandler.create),
    (r"POST /api/validate-yaml", _HubHandler.validate),
    (rf"POST {_API}/preupload/main", _HubHandler.preupload),
    (rf"POST (/datasets)?/{_REPO}\.git/info/lfs/objects/batch", _HubHandler.lfs_batch),
    (r"PUT /lfs-objects/(?P<oid>\w+)", _HubHandler.upload),
    (rf"POST {_API}/commit/main", _HubHandler.make_commit),
]


@contextlib.contextmanager
def serving_hub() -> Iterator[LoopbackHub]:
    """Runs a hub for the duration of a `with` block."""
    with LoopbackHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


@contextlib.contextmanager
def connected(hub: LoopbackHub, cache: Path, offline: bool = False, token: str = "") -> Iterator[None]:
    """Connects the client of this process to `hub`, as HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/no-token")
        patch.setattr(constants, "HF_HUB_OFFLINE", offline)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another transfer protocol, which this hub lacks
        patch.delenv("HF_TOKEN", raising=False)
        if token:
            patch.setenv("HF_TOKEN", token)
        huggingface_hub.close_session()
        yield
        huggingface_hub.close_session()
