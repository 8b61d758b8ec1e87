"""A local stand-in of the Hugging Face Hub: the requests that its client makes to push and pull a dataset.

Repositories live in memory. Large files go through the LFS protocol, as on the Hub without Xet: their content is stored
by hash first, then a commit names it.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_stand_in_0123456789"
_LARGE = (".parquet", ".safetensors")


@dataclass
class Repository:
    """A dataset: its commits, newest last, each with all files."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((sha, files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in ("", "main"):
            return self.commits[-1]
        return next((one for one in self.commits if one[0] == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]


@dataclass
class Hub:
    """What the stand-in holds, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Contents of large files by SHA-256."""
    puts: list[str] = field(default_factory=list)
    """Hashes of large files in the order of their arrival."""
    sent: list[str] = field(default_factory=list)
    """Paths of the files that the client downloaded."""
    break_after: int | None = None
    """Refuse further large files after so many."""
    refused_owner: str = ""
    """Owner under which the token may not write."""
    counting: threading.Lock = field(default_factory=threading.Lock, repr=False)


def files_hash(data: bytes) -> str:
    """The hash of a small file as git computes it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, value: Any = None, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value if value is not None else {}).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._may_write()):
            self._answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            self._paths_info(found[1], found[2], body)
        elif not self._may_write():
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/main", path):
            self._preupload(found[1], json.loads(body))
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": f"no {path}"})

    def _paths_info(self, name: str, revision: str, body: bytes) -> None:
        """Answer what some files or folders are; the client asks for it as a form, and ``datasets`` as JSON."""
        if (repository := self._find(name)) is None:
            return
        _, files = repository.at(revision) or ("", {})
        asked = parse_qs(body.decode())["paths"] if b"paths=" in body else json.loads(body)["paths"]
        found = [_entry(path, files[path]) for path in asked if path in files]
        folders = [path for path in asked if any(file.startswith(f"{path}/") for file in files)]
        self._answer(200, found + [_folder(path) for path in folders])

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        address = {"url": f"{self.hub.url}/datasets/{name}"}
        if asked["organization"] == self.hub.refused_owner:
            self._answer(403, {"error": "You don't have the rights to create a dataset under this namespace"})
        elif name in self.hub.repositories:
            self._answer(409, {"error": "You already created this dataset repo", **address})
        else:
            repository = self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
            repository.commit({".gitattributes": b"*.parquet filter=lfs\n"})
            self._answer(200, address)

    def _preupload(self, name: str, asked: dict[str, Any]) -> None:
        if (repository := self._find(name)) is None:
            return
        files = []
        for one in asked["files"]:
            held = repository.files.get(one["path"])
            large = one["path"].endswith(_LARGE)
            oid = None
            if held is not None:
                oid = hashlib.sha256(held).hexdigest() if large else files_hash(held)
            files.append({
                "path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid,
            })  # fmt: skip
        self._answer(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            href = f"{self.hub.url}/objects/{one['oid']}"
            known = one["oid"] in self.hub.objects
            objects.append(one if known else {**one, "actions": {"upload": {"href": href}}})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        data, oid = self._body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        with self.hub.counting:  # the client sends several files at once
            broken = self.hub.break_after is not None and len(self.hub.puts) >= self.hub.break_after
            if not broken:
                self.hub.objects[oid] = data
                self.hub.puts.append(oid)
        self._answer(403 if broken else 200, {"error": "the connection broke"} if broken else {})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if (repository := self._find(name)) is None:
            return
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        self._answer(200, {"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{sha}", "commitOid": sha})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        api = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)/?(.*))?/?", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, revision = (api[1], api[3]) if api else (file[1], file[2]) if file else ("", "")
        if (repository := self._find(name)) is None:
            return
        state = repository.at(revision or "main")
        if state is None:
            self._answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return
        sha, files = state
        if file and file[3] not in files:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        elif file:
            data = files[file[3]]
            if self.command == "GET":
                self.hub.sent.append(file[3])
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            sent = data[int(part[1]) : int(part[2] or len(data)) + 1] if part else data
            self._answer(206 if part else 200, sent, ETag=f'"{_etag(file[3], data)}"', X_Repo_Commit=sha)
        elif api and api[2] == "tree":
            everything = parse_qs(address.query).get("recursive") != ["false"]
            self._answer(200, _tree(files, api[4].rstrip("/"), everything))
        else:
            siblings = [{"rfilename": path} for path in sorted(files)]
            self._answer(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings})


def _etag(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if path.endswith(_LARGE) else files_hash(data)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": files_hash(data)}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _tree(files: dict[str, bytes], below: str, everything: bool) -> list[dict[str, Any]]:
    """The files below a folder; or its own ones, and its folders."""
    start = f"{below}/" if below else ""
    inside = {path: path.removeprefix(start).split("/") for path in sorted(files) if path.startswith(start)}
    found = [_entry(path, files[path]) for path, parts in inside.items() if everything or len(parts) == 1]
    folders = [] if everything else dict.fromkeys(start + parts[0] for parts in inside.values() if len(parts) > 1)
    return found + [_folder(path) for path in folders]


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": files_hash(path.encode())}


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Run the stand-in on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
