"""The queue: what ends a job, and what it leaves to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _page import Visitor, alive, served, until


def test_a_job_over_its_time_is_ended(tmp_path):
    with served(tmp_path, wall=0.5) as client:
        visitor = Visitor(client)
        visitor.upload("stay")

        job = visitor.wait()

        assert job["state"] == "failed"
        assert job["error"]["code"] == "E-W09"
        place = tmp_path / "state" / "jobs" / job["id"]
        assert not alive(int((place / "pid").read_text()))


def test_a_step_without_an_answer_fails_by_its_exit_code(tmp_path):
    with served(tmp_path) as client:
        visitor = Visitor(client)
        visitor.upload("mute")

        assert "exit code 1" in visitor.wait()["error"]["message"]


def test_a_bug_in_one_job_ends_no_other(tmp_path):
    with served(tmp_path) as client:
        visitor = Visitor(client)
        visitor.post("/demo")  # the program of the tests writes none of its files
        demo = visitor.wait()
        visitor.upload("ok")

        assert demo["error"]["code"] == "E-X01"
        assert visitor.wait()["state"] == "done"


def test_paths_of_the_server_are_never_said(tmp_path):
    with served(tmp_path) as client:
        visitor = Visitor(client)
        file = visitor.upload("secret", "my cells.h5ad")
        job = visitor.wait()

        said = job["error"]["message"]
        assert said.startswith("the file is cut in my cells.h5ad, see tmp. [E-F01]")
        for path in (f"/files/{file}", f"/jobs/{job['id']}", f"/api/jobs/{job['id']}/answer"):
            assert str(tmp_path) not in visitor.get(path).text


def test_a_server_that_stops_gives_its_jobs_back(tmp_path):
    with served(tmp_path) as client:
        visitor = Visitor(client)
        visitor.upload("once")
        job = visitor.jobs()[0]["id"]
        until((tmp_path / "state" / "jobs" / job / "stays").is_file)
    with served(tmp_path) as client:
        visitor.client._transport.app = client.app

        assert visitor.wait(job)["state"] == "done"


def test_deleting_a_file_ends_and_deletes_its_jobs(tmp_path):
    with served(tmp_path) as client:
        visitor = Visitor(client)
        file = visitor.upload("stay")
        place = tmp_path / "state" / "jobs" / visitor.jobs()[0]["id"]
        until((place / "below").is_file)
        pid = int((place / "pid").read_text())

        visitor.post(f"/files/{file}/delete")

        until(lambda: not alive(pid) and not place.exists())
        assert visitor.jobs() == []


# -- what may be asked ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "shell"},
        {"kind": "annotate"},
        {"kind": "annotate", "file": "FILE"},
        {"kind": "explain", "file": "FILE"},
        {"kind": "explain", "file": "FILE", "options": {"cell": "-x"}},
        {"kind": "train", "file": "FILE"},
        {"kind": "train", "file": "FILE", "options": {"labels_key": "-o"}},
        {"kind": "train", "file": "FILE", "options": {"labels_key": "x" * 300}},
        {"kind": "train", "file": "FILE", "options": {"labels_key": "a", "method": "/bin/sh"}},
        {"kind": "check", "file": "FILE", "options": {"trust": True}},
    ],
)
def test_what_no_form_asks_is_refused(tmp_path, body):
    with served(tmp_path, running=False) as client:
        visitor = Visitor(client)
        file = visitor.upload("ok")
        body = json.loads(json.dumps(body).replace("FILE", file))

        done = visitor.api("POST", "/api/jobs", json=body)

        assert (done.status_code, done.json()["error"]["code"]) == (400, "E-W14")
        assert len(visitor.jobs()) == 1


def test_requests_that_are_none_get_the_form_of_errors(tmp_path):
    with served(tmp_path, running=False) as client:
        visitor = Visitor(client)

        for done, status in (
            (visitor.api("POST", "/api/jobs", content=b"{"), 422),
            (visitor.api("POST", "/api/files", json={"size": -1}), 422),
            (visitor.api("POST", "/api/files", json={"name": "a.h5ad"}), 400),
            (visitor.api("PATCH", "/api/jobs"), 405),
        ):
            assert done.status_code == status
            assert done.json()["error"]["code"] == "E-W14"
        assert visitor.post("/files", data={"a": "b"}).status_code == 400
        assert visitor.post("/files", files={"file": ("a.h5ad", b"")}).status_code == 400
        assert visitor.post("/files", files={"other": ("a.h5ad", b"x")}).status_code == 400
        assert visitor.get("/api/files").json() == []


def test_files_are_named_by_path_only_where_that_is_allowed(tmp_path: Path):
    (tmp_path / "own.h5ad").write_text("ok")
    for local, status in ((False, 400), (True, 303)):
        with served(tmp_path, running=False, local=local) as client:
            visitor = Visitor(client)
            done = visitor.post("/paths", data={"path": str(tmp_path / "own.h5ad")})
            assert done.status_code == status
            for wrong in ("own.h5ad", str(tmp_path / "no.h5ad"), ""):
                assert visitor.post("/paths", data={"path": wrong}).status_code == 400
    visitor.post(done.headers["location"] + "/delete")
    assert (tmp_path / "own.h5ad").read_text() == "ok"


def test_the_api_describes_itself_without_loading_anything(tmp_path):
    with served(tmp_path, running=False) as client:
        visitor = Visitor(client)

        found = visitor.get("/api/openapi.json").json()

        assert {"/api/files", "/api/jobs", "/api/jobs/{id_}/answer"} <= set(found["paths"])
        assert all("summary" in m for path in found["paths"].values() for m in path.values())
        assert visitor.get("/docs").status_code == visitor.get("/redoc").status_code == 404


@pytest.mark.parametrize("token", [None, "let-me-in"])
def test_who_may_come(tmp_path, token):
    with served(tmp_path, running=False, token=token) as client:
        assert Visitor(client, token).get("/").status_code == 200
        assert Visitor(client, "wrong" if token else None).get("/").status_code == (
            403 if token else 200
        )
