"""The page in a real browser: the whole way, without scripts, on a phone, by keyboard."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _bad_cells import cells as reference
from _bad_cells import model, query
from _page import TOKEN, Server

from episome.models import LogisticRegression

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

CHROMIUM = os.environ.get("EPISOME_CHROMIUM") or next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium: `apt-get install chromium`, or name one in EPISOME_CHROMIUM",
)
#: Milliseconds that anything may take here.
WHILE = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        # Only our own pages are opened, and as root there is no sandbox.
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@cache
def explaining() -> LogisticRegression:
    cells = reference()
    LogisticRegression.setup_anndata(cells, "cell_type")
    made = LogisticRegression(cells)
    made.train()
    return made


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[Server]:
    """A page whose jobs are those of episome."""
    folder = tmp_path_factory.mktemp("page")
    model().save(folder / "models" / "types")
    explaining().save(folder / "models" / "types-with-genes")
    query().write_h5ad(folder / "query.h5ad")
    server = Server(folder, real=True, models=[str(folder / "models")])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Iterator[Server]:
    """A page whose jobs do what their file says."""
    server = Server(tmp_path_factory.mktemp("quick"))
    yield server
    server.stop()


def entered(browser: Any, server: Server, **options: Any):
    """A page of a new user, past the printed address."""
    context = browser.new_context(**options)
    context.set_default_timeout(WHILE)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.goto(f"{server.base}/?token={TOKEN}")
    page.wait_for_url(f"{server.base}/")
    page.wait_for_selector("h1")
    return page


def accessible(page: Any) -> None:
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in BAD] == []


BAD = {"serious", "critical"}


@dataclass
class Done:
    """An annotation that a user ran in the browser."""

    state: Any
    file: str
    result: str
    csv: pd.DataFrame
    names: list[str]


@pytest.fixture(scope="module")
def done(browser, real) -> Done:
    """Go the whole way once: upload, check, choose, run, look, download."""
    page = entered(browser, real, viewport={"width": 1100, "height": 900})
    accessible(page)
    page.set_input_files("#file", str(real.folder / "query.h5ad"))
    page.click("text=Upload and check")
    page.wait_for_url("**/files/*")
    page.wait_for_selector("text=Nothing must be mended")
    file = page.url
    accessible(page)
    assert page.is_checked("input[name=model]")
    page.click("button:text-is('Annotate')")
    page.wait_for_url("**/jobs/*")
    page.wait_for_selector("progress")
    page.wait_for_selector("text=All calls")
    page.wait_for_selector("#scatter canvas")
    names = page.locator(".downloads a").all_inner_texts()
    with page.expect_download() as waiting:
        page.click("text=calls.csv")
    csv = pd.read_csv(waiting.value.path(), index_col=0)
    assert page.problems == []
    return Done(page.context.storage_state(), file, page.url, csv, names)


def again(browser: Any, done: Done, path: str, **options: Any):
    """The same user in another window."""
    page = browser.new_context(storage_state=done.state, **options).new_page()
    page.set_default_timeout(WHILE)
    page.goto(path)
    return page


def test_from_upload_to_download_the_calls_are_those_of_python(done):
    wanted = model().annotate(query())

    assert done.names == ["report.html", "calls.csv", "annotated.h5ad", "result.json"]
    assert list(done.csv.index) == list(wanted.index)
    assert list(done.csv["label"]) == list(wanted["label"])
    np.testing.assert_allclose(done.csv["confidence"], wanted["confidence"], atol=1e-5)


def test_the_result_shows_map_composition_and_how_to_repeat(browser, done):
    page = again(browser, done, done.result)

    page.wait_for_selector("#scatter canvas")
    assert page.is_hidden("#pictures")
    assert page.locator("#legend li").count() == 3
    page.select_option("#colour", "confidence")
    assert page.locator("#legend li").all_inner_texts()[-1] == "1.00"
    page.select_option("#by", "donor_id")
    page.click("text=Show column")
    assert page.inner_text("#composition") == "Composition by donor_id"
    command = page.inner_text("pre[aria-label='Command line']")
    assert command == "episome annotate query.h5ad -m types -o calls.csv"
    page.fill("#search", "cell12")
    page.click("button:text-is('Search')")
    assert "cell120" in page.inner_text("section[aria-labelledby=calls] tbody")
    accessible(page)


def test_a_gene_colours_the_map_and_a_cell_tells_its_genes(browser, done, real):
    page = again(browser, done, done.result)
    api = done.result.replace("/jobs/", "/api/jobs/")
    gene = str(query().var_names[0])
    assert gene in page.request.get(f"{api}/genes?search={gene}").json()
    assert len(page.request.get(f"{api}/genes/{gene}").json()["cells"]) == 60

    page.fill("#gene", gene)
    page.click("#by-gene button")
    page.wait_for_selector('#colour option[value="gene"]:checked', state="attached")
    assert page.locator("#legend li").count() == 5
    assert page.url.partition("#")[0] == done.result
    page.fill("#gene", "nothing")
    page.click("#by-gene button")
    page.wait_for_selector("text=No cell of the map has a gene nothing")

    page.goto(f"{done.result}?search={done.csv.index[0]}#calls")
    page.click(f"a:text-is('{done.csv.index[0]}')")
    page.wait_for_url("**/cells/0")
    accessible(page)
    cell = page.request.get(page.url.replace("/jobs/", "/api/jobs/")).json()
    assert (cell["cell"], cell["label"]) == (done.csv.index[0], done.csv["label"].iloc[0])
    assert page.request.get(f"{api}/cells/999").status == 404
    assert "does not say which genes" in page.inner_text("main")

    # Another model, whose calls have genes.
    key = {"X-CSRF-Token": page.request.get(f"{real.base}/api").json()["csrf"]}
    models = page.request.get(f"{real.base}/api/models").json()
    (other,) = [m["id"] for m in models if m["explains"]]
    asked = {"kind": "explain", "file": done.file.rpartition("/")[2], "model": other}
    asked["options"] = {"cell": done.csv.index[0]}
    job = page.request.post(f"{real.base}/api/jobs", data=asked, headers=key).json()
    page.goto(f"{real.base}/jobs/{job['id']}")
    page.wait_for_selector("th:text-is('Gene')")
    accessible(page)
    shown = page.locator("tbody th").all_inner_texts()
    wanted = explaining().cell_genes(query()[:1].copy(), 20)
    assert shown == wanted["gene_name"].tolist()


def test_two_annotations_of_a_file_are_compared(browser, done, real):
    page = again(browser, done, done.file)
    page.click("text=Cell annotation schema")
    page.fill("#author", "Ada Lovelace")
    page.click("button:text-is('Annotate')")
    page.wait_for_url("**/jobs/*")
    page.wait_for_selector("text=All calls")
    with page.expect_download() as waiting:
        page.click("text=annotation.json")
    assert json.loads(Path(waiting.value.path()).read_text())["author_name"] == "Ada Lovelace"
    page.goto(done.file)
    page.click("section[aria-labelledby=compare] button")
    page.wait_for_url("**/compare*")

    accessible(page)
    assert "60 of 60 cells have the same label" in page.inner_text("main")
    found = page.request.get(page.url.replace("/compare", "/api/compare")).json()
    assert (found["n"], found["n_agree"]) == (60, 60)
    assert page.request.get(f"{real.base}/compare?first=x&second=y").status == 404


def test_without_scripts_everything_works(browser, real):
    page = entered(browser, real, java_script_enabled=False)

    page.set_input_files("#file", str(real.folder / "query.h5ad"))
    page.click("text=Upload and check")
    page.wait_for_selector("text=Nothing must be mended")
    page.uncheck("input[name=h5ad]")
    page.click("button:text-is('Annotate')")
    page.wait_for_selector("text=All calls")

    assert page.locator("section[aria-labelledby=calls] tbody tr").count() == 50
    page.click("a[rel=next]")
    assert page.locator("section[aria-labelledby=calls] tbody tr").count() == 10
    assert page.locator("#pictures img").count() == 3
    assert page.locator("#pictures img").first.evaluate("i => i.complete") is not None
    with page.expect_download() as waiting:
        page.click("text=calls.csv")
    assert len(pd.read_csv(waiting.value.path())) == 60


@pytest.mark.parametrize("width", [360, 550])  # a phone; 200 % zoom of a small window
def test_narrow_pages_do_not_scroll_sideways(browser, done, real, width):
    options = {"viewport": {"width": width, "height": 740}}
    for path in (f"{real.base}/", f"{real.base}/models", done.file, done.result):
        page = again(browser, done, path, **options)

        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        accessible(page)


def test_the_keyboard_is_enough(browser, quick):
    page = entered(browser, quick)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") in {"main", ""}

    page.goto(f"{quick.base}/")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "document.activeElement.textContent.trim() || document.activeElement.name"
            )
        )
        if reached[-1] == "Use demo data":
            page.keyboard.press("Enter")
            break
    page.wait_for_url("**/jobs/*")

    assert {"file", "Upload and check"} <= set(reached)


def test_a_job_is_stopped_and_survives_a_reload(browser, quick, tmp_path):
    (tmp_path / "long.h5ad").write_text("stay")
    page = entered(browser, quick)
    page.set_input_files("#file", str(tmp_path / "long.h5ad"))
    page.click("text=Upload and check")
    page.wait_for_url("**/files/*")
    page.wait_for_selector("text=about 9 s left")  # live, by a script
    page.reload()
    page.wait_for_selector("text=3 of 12 cells")
    other = page.context.new_page()
    job = page.evaluate("fetch('/api/jobs').then(r => r.json()).then(j => j[0].id)")
    other.goto(f"{quick.base}/jobs/{job}")
    accessible(other)

    other.click("text=Stop it")

    other.wait_for_selector("text=It was stopped")
    other.goto(f"{quick.base}/")
    other.go_back()
    other.wait_for_selector("text=It was stopped")
    assert page.problems == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("crash.h5ad", b"crash", "E-W10"),
        ("cut.h5ad", b"secret", "E-F01"),
        ("model.zip", b"PK", "E-W15"),
        ("empty.h5ad", b"", "The file is empty"),
    ],
)
def test_bad_files_get_a_message(browser, quick, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    page = entered(browser, quick)
    page.set_input_files("#file", str(tmp_path / name))
    page.click("text=Upload and check")

    page.wait_for_selector(f".problem:has-text('{said}')")

    assert not re.search(r"/state/|/tmp/|/home/", page.inner_text("main"))
    accessible(page)


def test_two_users_do_not_see_each_other(browser, quick, tmp_path):
    users = []
    for name in ("mine.h5ad", "yours.h5ad"):
        (tmp_path / name).write_text("ok")
        page = entered(browser, quick)
        page.set_input_files("#file", str(tmp_path / name))
        page.click("text=Upload and check")
        users.append(page)
    for page in users:
        page.wait_for_selector("text=Nothing must be mended")

    urls = [page.url for page in users]
    for page, other in zip(users, reversed(urls), strict=True):
        page.goto(f"{quick.base}/")
        assert page.locator(".files li").count() == 1
        page.goto(other)
        assert "[E-W04]" in page.inner_text("main")


def test_a_large_file_comes_in_pieces_and_is_deleted_by_its_button(browser, quick, tmp_path):
    with (tmp_path / "large.h5ad").open("wb") as handle:
        handle.write(b"ok ")
        handle.truncate(48 << 20)
    page = entered(browser, quick)
    pieces = []
    page.on("request", lambda r: pieces.append(r.url) if r.method == "PUT" else None)
    page.set_input_files("#file", str(tmp_path / "large.h5ad"))
    page.click("text=Upload and check")
    page.wait_for_url("**/files/*")

    assert len(pieces) == 6
    assert quick.memory() < 200 << 20
    page.click("text=Delete now")
    page.wait_for_url(f"{quick.base}/")
    assert "None yet." in page.inner_text("main")
