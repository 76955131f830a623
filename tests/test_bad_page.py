"""The local page under bad input, row by row of the catalogue of bad inputs.

What shows the same in this process runs in it; what ends a server or counts its memory has a
server of its own. A small program stands for episome where only the queue is looked at.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _bad_cells import model, query, with_bad
from _catalogue import Catalogue, marked
from _page import Server, Visitor, alive, served, until
from _program import program
from starlette.websockets import WebSocketDisconnect

from episome import web
from episome.cli import serve as serve_command
from episome.web import _view
from episome.web._settings import ServeSettings

CATALOGUE = Catalogue("test_bad_page")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER: dict[str, str] = {}

LIMIT, MUCH = 4 << 20, 200 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and sends signals")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page keeps its state."""
    return tmp_path


def stored(folder: Path) -> list[Path]:
    """Files of visitors that are on the disk."""
    return [p for p in (folder / "state" / "files").rglob("*") if p.is_file()]


# -- uploads -------------------------------------------------------------------------------------


def form_head(server: Server, cookie: str, csrf: str, length: str) -> str:
    return (
        f"POST /files?csrf={csrf} HTTP/1.1\nHost: 127.0.0.1:{server.port}\nCookie: {cookie}\n"
        f"Content-Type: multipart/form-data; boundary=x\n{length}\n\n"
    )


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.h5ad"\r\n\r\n'


def as_chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@row(
    "W01",
    "an upload over the limit, its length told or not",
    "413 as soon as it is; nothing stays",
)
def too_large(folder):
    server = Server(folder, max_upload=LIMIT)
    try:
        visitor = server.visitor()
        cookie = "; ".join(f"{k}={v}" for k, v in visitor.cookies.items())
        csrf = visitor.headers["X-CSRF-Token"]
        block = b"0" * (1 << 20)

        told = form_head(server, cookie, csrf, f"Content-Length: {LIMIT * 1000}")
        answers = [server.raw(told)]
        untold = form_head(server, cookie, csrf, "Transfer-Encoding: chunked")
        answers.append(server.raw(untold, [as_chunk(PART), *[as_chunk(block)] * 5]))

        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"connection: close" in answer.lower()
            assert b"[E-W01]" in answer
        said = visitor.post("/api/files", json={"name": "a.h5ad", "size": LIMIT + 1})
        assert (said.status_code, said.json()["error"]["code"]) == (413, "E-W01")
        begun = visitor.post("/api/files", json={"name": "a.h5ad", "size": 10}).json()
        more = visitor.put(f"/api/files/{begun['id']}", content=block)
        assert (more.status_code, more.json()["error"]["code"]) == (413, "E-W01")
        assert visitor.delete(f"/api/files/{begun['id']}").status_code == 200
        assert stored(folder) == []
        assert server.memory() < MUCH
    finally:
        server.stop()


@row("W02", "a large upload", "goes to the disk as it comes; the memory of the server is flat")
def large(folder):
    server = Server(folder, max_upload=1 << 30)
    try:
        visitor = server.visitor()
        before = server.memory()
        block = b"0" * (1 << 20)

        begun = visitor.post("/api/files", json={"name": "a.h5ad", "size": 96 << 20}).json()
        for at in range(0, 96, 32):
            visitor.put(
                f"/api/files/{begun['id']}",
                params={"offset": at << 20},
                content=(block for _ in range(32)),
            )

        assert visitor.get(f"/api/files/{begun['id']}").json()["complete"]
        assert server.memory() < min(MUCH, before + (32 << 20))
    finally:
        server.stop()


@row(
    "W03",
    "an upload that breaks off, connections that stand still",
    "what came is kept for an hour; a still connection is closed; each address has its limit",
)
def broken_off(folder):
    server = Server(folder, idle=1.0, per_address=30)
    idle = []
    try:
        visitor = server.visitor()
        begun = visitor.post("/api/files", json={"name": "a.h5ad", "size": 6}).json()
        cookie = "; ".join(f"{k}={v}" for k, v in visitor.cookies.items())
        head = (
            f"PUT /api/files/{begun['id']}?offset=0 HTTP/1.1\nHost: 127.0.0.1\nCookie: {cookie}\n"
            f"X-CSRF-Token: {visitor.headers['X-CSRF-Token']}\nContent-Length: 6\n\n"
        )
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            line.sendall(head.replace("\n", "\r\n").encode() + b"abc")
        at = f"/api/files/{begun['id']}"
        assert until(lambda: visitor.get(at).json()["offset"] == 3)
        wrong = visitor.put(at, params={"offset": 5}, content=b"f")
        assert (wrong.status_code, wrong.json()["error"]["details"]) == (409, {"offset": 3})
        assert visitor.put(at, params={"offset": 3}, content=b"def").json()["complete"]
        assert [p.read_bytes() for p in stored(folder)] == [b"abcdef"]

        # a body and a head that never end, then connections that say nothing
        still = visitor.post("/api/files", json={"name": "a.h5ad", "size": 6}).json()["id"]
        answer = server.raw(head.replace(begun["id"], still))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"[E-W08]" in answer
        assert server.raw("GET / HTTP/1.1\nHost: 127") == b""
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        for line in idle:
            line.settimeout(20)
            assert line.recv(1) == b""
        assert visitor.get("/health").json()["ok"]
    finally:
        for line in idle:
            line.close()
        server.stop()
    now = [0.0]
    with served(folder / "clock", running=False, clock=lambda: now[0]) as client:
        visitor = Visitor(client)
        begun = visitor.api("POST", "/api/files", json={"name": "a.h5ad", "size": 6}).json()
        for now[0], kept in ((3500.0, 1), (3700.0, 0)):
            client.app.state.work.store.sweep()
            assert len(visitor.get("/api/files").json()) == kept, begun


@row("W04", "files that the command line refuses", "refused with the same words, without paths")
def refused_files(folder, monkeypatch):
    with_bad(query(), np.nan).write_h5ad(folder / "nan.h5ad")
    (folder / "page.h5ad").write_text("<html><title>Sign in</title></html>")
    monkeypatch.chdir(folder)
    with served(folder, program=ServeSettings(state=folder).program) as client:
        visitor = Visitor(client)
        for name in ("page.h5ad", "nan.h5ad"):
            file = visitor.upload((folder / name).read_bytes(), name)
            job = visitor.wait()

            said = json.loads(program("check", name, "--json").stdout)["error"]
            assert job["error"] == said
            page = visitor.get(f"/files/{file}").text
            assert f"[{said['code']}]" in page
            assert str(folder) not in page + json.dumps(job)


@row("W05", "a file that crashes the reader", "its job fails with a code; all else goes on")
def crash(folder):
    with served(folder) as client:
        visitor = Visitor(client)
        visitor.upload("crash")
        after = visitor.upload("ok")

        ended = [visitor.wait(j["id"]) for j in reversed(visitor.jobs())]

        assert [j["state"] for j in ended] == ["failed", "done"]
        assert ended[0]["error"]["code"] == "E-W10"
        assert "SIGSEGV" in ended[0]["error"]["message"]
        assert "Nothing must be mended" in visitor.get(f"/files/{after}").text


NAMES = {
    "../../etc/passwd.h5ad": "passwd.h5ad",
    "..\\..\\boot.h5ad": "boot.h5ad",
    "a\0b\n.h5ad": "ab.h5ad",
    "<script>alert(1)</script>.h5ad": "&gt;.h5ad",
    "x" * 10_000 + ".h5ad": "x" * 60 + "...",
}


@row("W06", "names of files that are paths, very long, or HTML", "no path, ever; shown escaped")
def names(folder):
    with served(folder, running=False) as client:
        visitor = Visitor(client)
        for name in NAMES:
            done = visitor.api("POST", "/api/files", json={"name": name, "size": 1})
            assert done.status_code == 201, done.text
        assert visitor.upload("ok", "<b>../x.h5ad")

        page = visitor.get("/").text
        assert all(shown in page for shown in NAMES.values())
        assert "<script>alert" not in page
        assert "<b>" not in page
        assert all(re.fullmatch(r"[0-9a-f]{32}\.h5ad", p.name) for p in stored(folder))
        assert len(stored(folder)) == len(NAMES) + 1
        assert not [p for p in folder.rglob("*") if "passwd" in p.name]


# -- users ---------------------------------------------------------------------------------------


@row("W07", "the address of another user's file or job", "404, as one that was never given")
def others(folder):
    with served(folder) as client:
        one, other = Visitor(client), Visitor(client)
        file = one.upload("ok")
        job = one.wait()["id"]
        assert re.fullmatch(r"[0-9a-f]{32}", file)
        assert re.fullmatch(r"[0-9a-f]{32}", job)

        for path in (
            f"/files/{file}",
            f"/jobs/{job}",
            f"/jobs/{job}/download/result.json",
            f"/api/files/{file}",
            f"/api/jobs/{job}/answer",
            f"/models/{job}",
        ):
            assert one.get(path).status_code == (404 if "/models/" in path else 200)
            assert other.get(path).status_code == 404
            assert other.get(path.replace(file, "0" * 32).replace(job, "0" * 32)).text == (
                other.get(path).text
            )
        for path in (f"/files/{file}/delete", f"/jobs/{job}/cancel", f"/files/{file}/check"):
            assert other.post(path).status_code == 404
        assert other.api("PUT", f"/api/files/{file}", content=b"x").status_code == 404
        assert other.jobs() == other.get("/api/files").json() == []
        assert one.get(f"/files/{file}").status_code == 200


@row("W08", "many users at once", "all are served, in order; everybody sees their place")
def many(folder):
    with served(folder, running=False) as client:
        users = [Visitor(client) for _ in range(20)]
        for user in users:
            user.upload("ok")
        assert [u.jobs()[0]["position"] for u in users] == list(range(1, 21))
        assert "number 20" in users[-1].get("/jobs/" + users[-1].jobs()[0]["id"]).text
    with served(folder) as client:
        for user in users:
            user.client.app = client.app
            user.client._transport.app = client.app
        ended = [u.wait() for u in users]

        assert {j["state"] for j in ended} == {"done"}
        started = [j["started"] for j in ended]
        assert started == sorted(started)


@row("W09", "a full queue, a full disk", "503 before the upload, and when to ask again")
def full(folder):
    with served(folder, running=False, max_queue=1) as client:
        visitor = Visitor(client)
        visitor.upload("ok")
        for done in (
            visitor.post("/files", files={"file": ("a.h5ad", b"ok")}),
            visitor.api("POST", "/api/files", json={"name": "a.h5ad", "size": 2}),
        ):
            assert (done.status_code, int(done.headers["retry-after"]) > 0) == (503, True)
            assert "[E-W02]" in done.text
    with served(folder / "disk", running=False, min_free=1 << 60) as client:
        visitor = Visitor(client)
        done = visitor.post("/files", files={"file": ("a.h5ad", b"ok")})
        assert done.status_code == 503
        assert "[E-W03]" in done.text
    assert len(stored(folder)) == 1


# -- jobs ----------------------------------------------------------------------------------------


@row("W10", "a reload, another tab, a server that was started anew", "the address brings it back")
def reload(folder):
    with served(folder, running=False) as client:
        visitor = Visitor(client)
        file = visitor.upload("ok")
        job = visitor.jobs()[0]["id"]
        pages = [visitor.get(f"/jobs/{job}").text for _ in range(2)]
        assert pages[0] == pages[1]
    with served(folder) as client:
        visitor.client._transport.app = client.app

        assert visitor.wait(job)["state"] == "done"
        assert "Nothing must be mended" in visitor.get(f"/files/{file}").text


@row("W11", "a job that is stopped", "all its processes are ended, its files deleted")
def cancel(folder):
    with served(folder) as client:
        visitor = Visitor(client)
        visitor.upload("stay")
        job = visitor.jobs()[0]["id"]
        place = folder / "state" / "jobs" / job
        until(lambda: (place / "below").is_file() and (place / "progress.json").is_file())
        pids = [int((place / name).read_text()) for name in ("pid", "below")]
        page = visitor.get(f"/jobs/{job}").text
        assert "about 9 s left" in page
        assert "3 of 12 cells" in page
        assert all(map(alive, pids))

        assert visitor.post(f"/jobs/{job}/cancel").status_code == 303

        until(lambda: not any(map(alive, pids)) and not place.exists())
        assert visitor.get(f"/api/jobs/{job}").json()["state"] == "cancelled"
        assert "It was stopped" in visitor.get(f"/jobs/{job}").text


@row("W12", "what is old", "deleted after a day, or at once by its button")
def retention(folder):
    now = [1000.0]
    with served(folder, running=False, clock=lambda: now[0]) as client:
        visitor, store = Visitor(client), client.app.state.work.store
        first, second = visitor.upload("ok"), visitor.upload("ok")
        for job in store.in_state("queued"):
            store.update_job(job.id, state="done", ended=now[0])
        assert visitor.post(f"/files/{first}/delete").status_code == 303
        assert visitor.get(f"/files/{first}").status_code == 404
        assert len(stored(folder)) == 1

        now[0] += 24 * 3600 - 1
        store.sweep()
        assert visitor.get(f"/files/{second}").status_code == 200
        now[0] += 2
        store.sweep()

        assert visitor.get(f"/files/{second}").status_code == 404
        assert visitor.jobs() == []
        assert stored(folder) == []
        assert list((folder / "state" / "jobs").iterdir()) == []


EVIL = "<script>alert(1)</script>"


def finished(client, visitor: Visitor, folder: Path, cells, calls: pd.DataFrame) -> str:
    """A job of annotation that has ended with these calls."""
    store = client.app.state.work.store
    cells.write_h5ad(folder / "cells.h5ad")
    model().save(folder / "model", overwrite=True)
    file = visitor.upload((folder / "cells.h5ad").read_bytes())
    job = store.new_job(store.file(_owner(store), file).owner, "annotate", file=file, model=None)
    place = store.job_folder(job.id)
    calls.to_parquet(place / "calls.parquet")
    _view.main(
        [
            str(folder / "cells.h5ad"),
            str(folder / "model"),
            str(place / "calls.parquet"),
            str(place),
        ]
    )
    (place / "answer-0.json").write_text(json.dumps({"ok": True, "notes": [], "warnings": []}))
    store.update_job(job.id, state="done", ended=store.now())
    return job.id


def _owner(store) -> str:
    with store._open() as db:
        return db.execute("SELECT owner FROM files").fetchone()[0]


@row("W13", "labels and columns with HTML or formulas", "escaped; downloads are attachments")
def markup(folder):
    cells = query()
    cells.obs = pd.DataFrame({EVIL[:17]: [EVIL, "b"] * 30}, index=cells.obs_names)
    cells.obs_names = ["=1+1", *cells.obs_names[1:]]
    calls = model().annotate(query()).set_axis(cells.obs_names)
    calls["label"] = [EVIL, "@x", *calls["label"].astype(str)[2:]]
    with served(folder, running=False) as client:
        visitor = Visitor(client)
        job = finished(client, visitor, folder, cells, calls)

        page = visitor.get(f"/jobs/{job}")
        table = visitor.get(f"/jobs/{job}/download/calls.csv")
        svg = visitor.post("/files", files={"file": ("a.svg", b"<svg/>")})

        assert EVIL not in page.text
        assert page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert not re.search(r"<script(?![^>]*src=)|\bstyle=|\bon\w+=|javascript:", page.text)
        assert table.headers["content-disposition"].startswith("attachment")
        assert table.headers["x-content-type-options"] == "nosniff"
        lines = table.text.splitlines()
        assert lines[1].startswith(f"'=1+1,{EVIL}")
        assert ",'@x," in lines[2]
        assert len(lines) == 61
        assert (svg.status_code, "[E-W15]" in svg.text) == (415, True)


@row("W14", "requests of other sites, for other hosts, for files outside", "refused")
def foreign(folder):
    with served(folder, running=False) as client:
        visitor = Visitor(client)
        files = {"file": ("a.h5ad", b"ok")}
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:1"},
            {"sec-fetch-site": "cross-site"},
            {"host": "evil.example"},
            {"host": "127.0.0.1.evil.example"},
            {"host": ""},
        ):
            done = visitor.post("/files", files=files, headers=headers)
            assert (done.status_code, "[E-W06]" in done.text) == (403, True), headers
        good = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
        assert visitor.post("/files", files=files, headers=good).status_code == 303
        for csrf in ("", "0" * 64, Visitor(client).csrf):
            done = visitor.client.post(f"/demo?csrf={csrf}")
            assert (done.status_code, "[E-W06]" in done.text) == (403, True)
        assert visitor.get("/", headers={"host": "evil.example"}).status_code == 403
        for path in ("/static/..%2f_app.py", "/static/../_app.py", "/static/%2e%2e/_app.py"):
            assert visitor.get(path).status_code == 404
        stranger = visitor.client.__class__(client.app, base_url="http://127.0.0.1")
        for path in ("/", "/api/jobs", "/?token=wrong", "/health"):
            done = stranger.get(path)
            assert (done.status_code, "[E-W05]" in done.text) == (403, True)
        with pytest.raises(WebSocketDisconnect), visitor.client.websocket_connect("/"):
            pass
        cookie = visitor.client.cookies.jar
        assert {c.name for c in cookie} == {"episome_0"}
        fresh = stranger.get("/", params={"token": "let-me-in"}).headers["set-cookie"]
        assert "HttpOnly" in fresh
        assert "SameSite=Strict" in fresh


@row("W15", "a page for other machines", "not by itself: it wants a token, and warns")
def not_for_others(folder, monkeypatch):
    made = []

    def make(settings, **where):
        made.append((settings, where))
        return Silent()

    monkeypatch.setattr(web, "make_server", make)
    default = {p.name: p.default for p in serve_command.command.params}["host"]
    assert default == "127.0.0.1"
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        done = program("serve", "--host", host, "--port", "0")
        assert done.exit_code == 2
        assert "[E-W12]" in done.stderr
        assert "--token" in done.stderr
    assert made == []

    state = ("--port", "0", "--state", folder / "s")
    alone = program("serve", *state)
    open_ = program("serve", "--host", "0.0.0.0", "--token", "abc", *state)
    public = program("serve", "--host", "0.0.0.0", "--public", *state)

    assert [d.exit_code for d in (alone, open_, public)] == [0, 0, 0], alone.output
    assert "warning" not in alone.stderr
    assert "warning: the page can be reached from other machines" in open_.stderr
    assert "warning" in public.stderr
    assert re.search(r"^http://127\.0\.0\.1:\d+/\?token=\S{32}$", alone.stdout, re.M)
    assert [len(s.token or "") for s, _ in made] == [32, 3, 0]
    assert [s.local for s, _ in made] == [True, False, False]
    assert [w["host"] for _, w in made] == ["127.0.0.1", "0.0.0.0", "0.0.0.0"]


class Silent:
    """A server that ends at once."""

    def run(self, sockets) -> None:
        for line in sockets:
            line.close()


@row("W16", "no JavaScript", "upload, run, table and download work; see the tests in a browser")
def without_scripts(folder):
    cells = query()
    with served(folder, running=False) as client:
        visitor = Visitor(client)
        job = finished(client, visitor, folder, cells, model().annotate(cells))

        for path in ("/", "/models", "/about", f"/jobs/{job}", "/nowhere"):
            page = visitor.get(path).text
            assert '<html lang="en">' in page
            assert page.count("<h1") == page.count("<main") == 1
            for field in re.findall(r'<(?:input|select)[^>]*\bid="([^"]+)"', page):
                assert f'<label for="{field}"' in page, field
            assert not re.search(r"<img(?![^>]*\balt=)", page)
        table = visitor.get(f"/jobs/{job}", params={"search": "cell12", "page": "1"}).text
        assert "1 cells, page 1 of 1" in table or "cells, page 1 of" in table
        waiting = visitor.get(f"/jobs/{visitor.jobs()[-1]['id']}").text
        assert '<noscript><meta http-equiv="refresh"' in waiting


@row("W17", "a model of a visitor", "not taken: only those that are installed, or trained here")
def models(folder):
    model().save(folder / "models" / "types")
    shutil.make_archive(str(folder / "m"), "zip", folder / "models" / "types")
    with served(folder, running=False, models=(folder / "models",)) as client:
        visitor = Visitor(client)
        for name in ("m.zip", "weights.safetensors", "model.pt", "manifest.json"):
            done = visitor.post("/files", files={"file": (name, (folder / "m.zip").read_bytes())})
            assert (done.status_code, "[E-W15]" in done.text) == (415, True)
        assert visitor.post("/models").status_code == 405
        assert visitor.api("POST", "/api/models", json={}).status_code == 405
        (found,) = visitor.get("/api/models").json()
        assert found["name"] == "types"
        assert str(folder) not in json.dumps(found)
        file = visitor.upload("ok")
        for wrong in ("../../models/types", str(folder / "models" / "types"), "0" * 32, file):
            body = {"kind": "annotate", "file": file, "model": wrong[:64]}
            assert visitor.api("POST", "/api/jobs", json=body).status_code == 404


@row("W18", "a server that is killed while jobs run", "they run again; no process is left over")
def killed(folder):
    server = Server(folder)
    try:
        visitor = server.visitor()
        ids = []
        for text in ("once", "stay"):
            begun = visitor.post("/api/files", json={"name": "a.h5ad", "size": len(text)}).json()
            visitor.put(f"/api/files/{begun['id']}", content=text.encode())
            ids.append(visitor.get("/api/jobs").json()[0]["id"])
        (pid,) = _pids(folder, ids[0], "pid")

        server.kill()
        assert alive(pid)  # this program does not look whether its server lives
        server.given["listen"] = server.port
        server.start()

        until(lambda: not alive(pid))
        found = until(lambda: _state(visitor, ids[0]) == "done")
        assert found
        # the second runs now; killed twice, it is given up
        for _ in range(2):
            pids = _pids(folder, ids[1], "pid", "below")
            server.kill()
            server.start()
            _gone(pids)
        until(lambda: _state(visitor, ids[1]) == "failed")
        assert visitor.get(f"/api/jobs/{ids[1]}").json()["error"]["code"] == "E-W11"
    finally:
        server.stop()


def _pids(folder: Path, job: str, *names: str) -> list[int]:
    """Processes of a job that stays, when the page knows them too."""
    place = folder / "state" / "jobs" / job

    def found() -> list[int] | None:
        try:
            pids = [int((place / name).read_text()) for name in names]
        except (OSError, ValueError):  # not there yet, or half written
            return None
        with contextlib.closing(sqlite3.connect(folder / "state" / "page.sqlite3")) as db:
            known = db.execute("SELECT pid FROM jobs WHERE id = ?", (job,)).fetchone()[0]
        return pids if known == pids[0] and all(map(alive, pids)) else None

    return until(found)


def _gone(pids: list[int]) -> None:
    until(lambda: not any(map(alive, pids)))


def _state(visitor, id_: str) -> str:
    return visitor.get(f"/api/jobs/{id_}").json()["state"]


@pytest.mark.parametrize("name", marked(CATALOGUE, {}))
def test_bad_page(name, folder, monkeypatch):
    shows = CATALOGUE[name].shows
    if "monkeypatch" in shows.__code__.co_varnames[: shows.__code__.co_argcount]:
        shows(folder, monkeypatch)
    else:
        shows(folder)
