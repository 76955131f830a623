"""The page as a test uses it: in this process with a client, or as a server of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="episome[serve] is not installed")
pytest.importorskip("httpx", reason="the test client needs httpx")

from fastapi.testclient import TestClient

from episome.web import ServeSettings, create_app

#: A program in the place of episome's: what it does stands in the file that it is given.
STEP = (sys.executable, str(Path(__file__).with_name("_page_step.py")))
SERVER = Path(__file__).with_name("_page_server.py")
TOKEN = "let-me-in"
#: How long anything may take before a test gives up; nothing is judged by it.
PATIENCE = 60.0


def settings_for(folder: Path, **given: Any) -> ServeSettings:
    """Settings of a page in a folder, with the program of the tests."""
    plain = {"state": folder / "state", "token": TOKEN, "min_free": 0, "program": STEP}
    return ServeSettings(**{**plain, **given})


class Visitor:
    """A browser without scripts: it keeps its cookie, and sends the page's own forms."""

    def __init__(self, client: TestClient, token: str | None = TOKEN) -> None:
        self.client = TestClient(client.app, base_url="http://127.0.0.1", follow_redirects=False)
        self.client.get("/", params={} if token is None else {"token": token})
        self.csrf = self.client.get("/api").json().get("csrf", "")

    def get(self, path: str, **more: Any):
        return self.client.get(path, **more)

    def post(self, path: str, **more: Any):
        return self.client.post(path, params={"csrf": self.csrf}, **more)

    def api(self, method: str, path: str, **more: Any):
        return self.client.request(method, path, headers={"X-CSRF-Token": self.csrf}, **more)

    def upload(self, content: bytes | str = "ok", name: str = "cells.h5ad") -> str:
        """Upload a file by the form; its id."""
        data = content.encode() if isinstance(content, str) else content
        done = self.post("/files", files={"file": (name, data)})
        assert done.status_code == 303, done.text
        return done.headers["location"].rpartition("/")[2]

    def jobs(self) -> list[dict[str, Any]]:
        return self.get("/api/jobs").json()

    def wait(self, id_: str | None = None) -> dict[str, Any]:
        """Wait until a job has ended; default the newest."""
        id_ = id_ or self.jobs()[0]["id"]
        return until(lambda: self._ended(id_))

    def _ended(self, id_: str) -> dict[str, Any] | None:
        job = self.get(f"/api/jobs/{id_}").json()
        return None if job["state"] in {"queued", "running"} else job


def until(what, seconds: float = PATIENCE):
    """Wait until something is true; it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail("it never came")


@contextlib.contextmanager
def served(folder: Path, *, running: bool = True, **given: Any) -> Iterator[TestClient]:
    """A page in this process; its queue is worked off only if ``running``."""
    client = TestClient(create_app(settings_for(folder, **given)), base_url="http://127.0.0.1")
    if not running:
        yield client
        return
    with client:
        yield client


class Server:
    """A page in a process of its own."""

    def __init__(self, folder: Path, **given: Any) -> None:
        self.folder, self.given = folder, given
        self._clients = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        asked = json.dumps({"state": str(self.folder / "state"), "token": TOKEN, **self.given})
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), asked], stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        self.base = f"http://127.0.0.1:{self.port}"

    def visitor(self):
        """A client of it with a session, and what its requests must carry."""
        import httpx

        client = self._clients.enter_context(httpx.Client(base_url=self.base, timeout=PATIENCE))
        client.get("/", params={"token": TOKEN})
        client.headers["X-CSRF-Token"] = client.get("/api").json()["csrf"]
        return client

    def memory(self) -> int:
        """The largest size that its process had, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> None:
        self._clients.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process.stdout.close()

    def raw(self, head: str, parts=(), seconds: float = 20.0) -> bytes:
        """Send bytes as they are; what comes back until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as line:
            with contextlib.suppress(ConnectionError):
                line.sendall(head.replace("\n", "\r\n").encode())
                for part in parts:
                    line.sendall(part)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while block := line.recv(65536):
                    answer += block
            return answer


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"
