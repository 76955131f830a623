"""The report of a job: asked for with the names that its user knows, and handed out as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="episome[serve] is not installed")

from _page import settings_for

from episome.web._pages import _download
from episome.web._steps import steps
from episome.web._store import DONE, Store
from episome.web._work import Work


def test_a_job_asks_for_one_report_in_the_names_of_its_user(tmp_path):
    store = Store(settings_for(tmp_path))
    job = store.new_job("me", "annotate", file="f", model="m", options={"h5ad": True})

    table, _, whole = steps(
        job, Path("/files/0a.h5ad"), Path("/models/1b"), tmp_path, store.settings,
        ("my cells.h5ad", "my model"),
    )  # fmt: skip

    at = table.arguments.index("--report")
    assert table.arguments[at:] == (
        "--report", str(tmp_path / "report.html"), "--report-names", "my cells.h5ad", "my model"
    )  # fmt: skip
    assert whole.arguments[-1] == "--no-report"


def test_a_report_is_handed_out_as_a_file(tmp_path):
    store = Store(settings_for(tmp_path))
    job = store.new_job("me", "annotate", file="f", model="m")
    store.update_job(job.id, state=DONE, ended=1.0)
    job, work = store.job("me", job.id), Work(store, None)
    assert "report.html" not in work.results(job)

    (store.job_folder(job.id) / "report.html").write_text("<h1>x</h1>")

    assert work.results(job)[0] == "report.html"
    answer = _download(work, job, "report.html")
    assert answer.media_type == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="report.html"'
