"""Memory and answers of the local page: an upload of 1 GiB, and many users at once.

A server with the real program runs in a process of its own. An upload of ``--gib`` comes in pieces
of 8 MiB and as one form; then ``--users`` users upload ``--mib`` each at the same time, and ask
for the start page while one job after the other runs. Printed are the largest memory of the
server, the seconds of the uploads, and the times of the pages.

    python tests/benchmarks/page.py [--gib 1] [--users 20] [--mib 20] [--json OUT] [--small]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from episome.data import simulate_cells

SERVER = Path(__file__).parents[1] / "_page_server.py"
TOKEN, PIECE = "bench", 8 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--mib", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true", help="sizes that say nothing")
    asked = parser.parse_args()
    if asked.small:
        asked.gib, asked.users, asked.mib = 0.03, 2, 0.5
    found: dict[str, Any] = {}
    size = int(asked.gib * (1 << 30))
    for name, send in (("pieces", in_pieces), ("form", as_form)):
        with tempfile.TemporaryDirectory() as folder, Served(Path(folder), real=False) as server:
            before, start = server.peak(), time.perf_counter()
            send(server.user(), size)
            found[name] = {
                "gib": asked.gib,
                "seconds": round(time.perf_counter() - start, 1),
                "before_mb": round(before / 1e6),
                "peak_mb": round(server.peak() / 1e6),
            }
            print(f"upload of {asked.gib:g} GiB, {name}: {found[name]}", flush=True)
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder), real=True) as server:
        found["users"] = crowd(server, Path(folder), asked.users, asked.mib)
        print(f"{asked.users} users with {asked.mib:g} MiB each: {found['users']}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


class Served:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *, real: bool) -> None:
        given = {"state": str(folder / "state"), "token": TOKEN, "real": real}
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), json.dumps(given)], stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Served:
        assert self.process.stdout is not None
        self.base = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def user(self) -> httpx.Client:
        client = httpx.Client(base_url=self.base, timeout=600)
        client.get("/", params={"token": TOKEN})
        client.headers["X-CSRF-Token"] = client.get("/api").json()["csrf"]
        return client

    def peak(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024


def in_pieces(user: httpx.Client, size: int) -> None:
    begun = user.post("/api/files", json={"name": "a.h5ad", "size": size}).json()
    at, piece = 0, bytes(PIECE)
    while at < size:
        part = piece[: min(PIECE, size - at)]
        done = user.put(f"/api/files/{begun['id']}", params={"offset": at}, content=part)
        at = done.raise_for_status().json()["offset"]


def as_form(user: httpx.Client, size: int) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.h5ad"\r\n\r\n'
    tail = b"\r\n--x--\r\n"

    def body() -> Iterator[bytes]:
        yield head
        left, block = size, bytes(1 << 20)
        while left:
            part = block[: min(left, len(block))]
            left -= len(part)
            yield part
        yield tail

    headers = {
        "content-type": "multipart/form-data; boundary=x",
        "content-length": str(size + len(head) + len(tail)),
    }
    done = user.post("/files", content=body(), headers=headers)
    assert done.status_code == 303, done.text[:500]


def crowd(server: Served, folder: Path, n_users: int, mib: float) -> dict[str, Any]:
    """Let users upload at once, and ask for pages until all their jobs are done."""
    # Values that do not repeat, so that the file is as large as it says.
    n_cells = max(int(mib * (1 << 20) / (8 * 500)), 60)
    simulate_cells(n_cells, 1000, n_types=4, seed=0).write_h5ad(folder / "cells.h5ad")
    content = (folder / "cells.h5ad").read_bytes()
    times: list[float] = []
    states: list[str] = []

    def one() -> None:
        user = server.user()
        files = {"file": ("cells.h5ad", content)}
        done = user.post("/files", files=files)
        assert done.status_code == 303, done.text[:500]
        while True:
            start = time.perf_counter()
            user.get("/").raise_for_status()
            times.append(time.perf_counter() - start)
            state = user.get("/api/jobs").json()[0]["state"]
            if state not in {"queued", "running"}:
                states.append(state)
                return
            time.sleep(1.0)

    start = time.perf_counter()
    threads = [threading.Thread(target=one) for _ in range(n_users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p95, most = np.quantile(times, (0.5, 0.95, 1.0)) * 1000
    return {
        "file_mib": round(len(content) / (1 << 20), 1),
        "done": states.count("done"),
        "seconds": round(time.perf_counter() - start, 1),
        "pages": len(times),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "max_ms": round(float(most), 1),
        "peak_mb": round(server.peak() / 1e6),
    }


if __name__ == "__main__":
    main()
