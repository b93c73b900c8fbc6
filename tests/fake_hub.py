"""A Hugging Face Hub on 127.0.0.1: the paths and headers that huggingface_hub asks for.

Large files are redirected to a second server, as the real Hub does to its CDN.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories in memory, faults on demand, and a log of what was asked."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.hidden: set[str] = set()  # listed, but not there
        self.cuts: dict[str, list[int]] = {}  # file: bytes before the line goes dead
        self.sizes: dict[str, int] = {}  # file: the size that is announced
        self.sha256: dict[str, str] = {}  # file: the digest that is announced
        self.status: int | None = None  # answer everything with this
        self.redirected = True
        self.log: list[tuple[str, str, str | None, str | None]] = []
        self.cdn = self._serve(_Cdn)
        self.server = self._serve(_Hub)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _serve(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.hub = self
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def close(self):
        for server in (self.server, self.cdn):
            server.shutdown()
            server.server_close()

    def fetched(self, file: str) -> list[str | None]:
        """The Range of each GET of a file's content."""
        at = "/cdn/" if self.redirected else "/resolve/"
        return [
            ranges
            for method, path, ranges, _ in self.log
            if method == "GET" and at in path and path.endswith(file)
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    @property
    def hub(self) -> FakeHub:
        return self.server.hub

    def note(self):
        headers = self.headers
        self.hub.log.append(
            (self.command, self.path, headers["Range"], headers["Authorization"])
        )

    def send(self, status: int, body: bytes = b"", **headers: str):
        self.send_response(status)
        headers = {"Content_Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_content(self, file: str, body: bytes, **headers: str):
        whole, status = len(body), 200
        if self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            if start >= whole:
                return self.send(416)
            body, status = body[start:], 206
            headers["Content_Range"] = f"bytes {start}-{whole - 1}/{whole}"
        if self.command == "GET" and self.hub.cuts.get(file):
            keep = self.hub.cuts[file].pop(0)
            headers["Content_Length"] = str(len(body))
            self.send(status, body[:keep], **headers)
            self.close_connection = True
            return
        self.send(status, body, **headers)


class _Hub(_Handler):
    def answer(self):
        self.note()
        hub, path = self.hub, self.path.partition("?")[0].lstrip("/")
        if hub.status is not None:
            return self.send(hub.status)
        if path.startswith("api/models/"):
            return self.list_files("/".join(path.split("/")[2:4]))
        repository, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        if repository in hub.gated and not self.headers["Authorization"]:
            return self.send(401, X_Error_Code="GatedRepo", X_Error_Message="gated")
        files = hub.repositories.get(repository)
        if files is None:
            return self.send(404, X_Error_Code="RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.send(404, X_Error_Code="RevisionNotFound")
        if file not in files or file in hub.hidden:
            return self.send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        body = files[file]
        digest = hub.sha256.get(file, hashlib.sha256(body).hexdigest())
        if file.endswith(".safetensors"):
            size = hub.sizes.get(file, len(body))
            headers = {"X_Repo_Commit": COMMIT, "X_Linked_Etag": f'"{digest}"',
                       "X_Linked_Size": str(size), "ETag": '"pointer"'}  # fmt: skip
            if hub.redirected:
                address = f"http://127.0.0.1:{hub.cdn.server_port}/cdn/{path}"
                return self.send(302, Location=address, **headers)
            return self.send_content(file, body, **headers)
        self.send_content(file, body, X_Repo_Commit=COMMIT, ETag=f'"{digest[:40]}"')

    def list_files(self, repository: str):
        files = self.hub.repositories.get(repository)
        if files is None:
            return self.send(401, X_Error_Message="Invalid username or password.")
        if "/revision/" in self.path and not self.path.endswith(("/main", COMMIT)):
            return self.send(404, X_Error_Code="RevisionNotFound")
        listing = {"id": repository, "sha": COMMIT,
                   "siblings": [{"rfilename": name} for name in files]}  # fmt: skip
        self.send(200, json.dumps(listing).encode(), Content_Type="application/json")


class _Cdn(_Handler):
    def answer(self):
        self.note()
        path = self.path.removeprefix("/cdn/")
        repository, _, rest = path.partition("/resolve/")
        file = rest.partition("/")[2]
        self.send_content(file, self.hub.repositories[repository][file])
