"""A server on this machine that stands in for the Hugging Face hub."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class Hub:
    """Models by name, each a list of commits, each the files of the model by their paths."""

    def __init__(self) -> None:
        self.models: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.lfs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.token: str | None = None
        self.url = ""

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add a commit to a model."""
        text = repr((len(self.models.get(name, ())), sorted(files.items())))
        found = hashlib.sha1(text.encode()).hexdigest()
        self.models.setdefault(name, []).append((found, files))
        return found

    def files(self, name: str, revision: str = "main") -> tuple[str, dict[str, bytes]] | None:
        """Return the commit that a revision stands for."""
        commits = self.models.get(name)
        if not commits:
            return None
        if revision == "main":
            return commits[-1]
        return next((c for c in commits if c[0] == revision), None)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, value: object, status: int = 200, **headers: str) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for key, text in headers.items():
                self.send_header(key.replace("_", "-"), text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def missing(self, code: str) -> None:
            self.answer({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                return self.info(found[1], found[2] or "main")
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file(found[1], found[2], found[3])
            return self.missing("EntryNotFound")

        do_HEAD = do_GET

        def info(self, name: str, revision: str) -> None:
            if name not in hub.models:
                return self.missing("RepoNotFound")
            found = hub.files(name, revision)
            if found is None:
                return self.missing("RevisionNotFound")
            siblings = [{"rfilename": f} for f in found[1]]
            return self.answer({"id": name, "sha": found[0], "siblings": siblings, "tags": []})

        def file(self, name: str, revision: str, file: str) -> None:
            found = hub.files(name, revision)
            if found is None:
                return self.missing("RepoNotFound")
            if file not in found[1]:
                return self.missing("EntryNotFound")
            data = found[1][file]
            etag = hashlib.sha256(data).hexdigest()
            return self.answer(data, ETag=f'"{etag}"', X_Repo_Commit=found[0])

        def do_POST(self) -> None:
            path, data = unquote(urlparse(self.path).path), self.body()
            hub.asked.append(f"POST {path}")
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer({"error": "Invalid username or password."}, 401)
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                wanted = json.loads(data)
                name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
                if name in hub.models:
                    return self.answer({"error": "it exists", "url": f"{hub.url}/{name}"}, 409)
                hub.commit(name, {})
                return self.answer({"url": f"{hub.url}/{name}", "id": name})
            if path.startswith("/api/models/") and "/preupload/" in path:
                files = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for f in json.loads(data)["files"]
                ]
                return self.answer({"files": files})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {
                        "oid": o["oid"],
                        "size": o["size"],
                        "actions": {"upload": {"href": f"{hub.url}/upload/{o['oid']}"}},
                    }
                    for o in json.loads(data)["objects"]
                ]
                return self.answer(
                    {"transfer": "basic", "objects": objects},
                    Content_Type="application/vnd.git-lfs+json",
                )
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/.+", path):
                return self.take(found[1], data)
            return self.missing("EntryNotFound")

        def take(self, name: str, data: bytes) -> None:
            files = dict(hub.files(name)[1])
            for line in data.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[entry["value"]["path"]] = hub.lfs[entry["value"]["oid"]]
            done = hub.commit(name, files)
            self.answer({"commitUrl": f"{hub.url}/{name}/commit/{done}", "commitOid": done})

        def do_PUT(self) -> None:
            oid = self.path.rsplit("/", 1)[1]
            hub.lfs[oid] = self.body()
            self.answer(b"")

    return Handler


@contextmanager
def serving():
    """Serve a hub on this machine; ``hub.url`` is its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
