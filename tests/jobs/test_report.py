"""Reports beside results, and later from them."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.data import simulate_cells
from episome.errors import EpisomeWarning, InputFileError, UsageError
from episome.jobs import (
    AnnotateRequest,
    EvaluateRequest,
    ReportRequest,
    _report_facts,
    _streamed,
    agreement,
    annotate,
    evaluate,
    report,
    sample_columns,
)
from episome.models import LogisticRegression
from episome.report import CallSummary, annotation_page
from episome.report._parts import shift_parts

SECTIONS = (
    "What was found in the input",
    "Calls",
    "Composition",
    "Confidence",
    "Against the labels",
    "Reliability and risk",
    "Novelty",
    "Shift against the training cells",
    "Genes behind the classes",
    "Provenance",
    "How to do it again",
)
#: The largest report.
MOST = 3_000_000


class Page(HTMLParser):
    """What a report holds."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.figures: list[str] = []
        self.headings: list[str] = []
        self._open = ""
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.links += [v for k, v in attrs if k in {"src", "href", "xlink:href", "action"} and v]
        if tag == "figure":
            self.figures.append(named.get("aria-label") or "")
        self._open = tag

    def handle_data(self, data):
        if self._open == "h2" and data.strip():
            self.headings.append(data.strip())

    def facts(self):
        return json.loads(re.search(r'id="episome-data">(.*?)</script>', self.text, re.S).group(1))


def good(path: Path) -> Page:
    """What holds for every report: offline, small, with words for every picture, and private."""
    page = Page(path)
    assert path.stat().st_size < MOST
    outside = [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert "default-src 'none'" in page.text
    assert not re.search(r"url\((?!#)|@import|<(iframe|object|embed|link|img)\b", page.text)
    assert page.figures
    assert all(page.figures)
    assert "@media print" in page.text
    shown = page.text.replace("http://www.w3.org", "")
    for private in (str(Path.home()), str(path.parent), socket.gethostname()):
        assert len(private) < 6 or private not in shown
    user = getpass.getuser()
    assert not re.search(rf"[/\\]{re.escape(user)}[/\\]", shown)
    page.facts()
    return page


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Cells with a map and labels, and a model of others."""
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(400, 60, n_types=3, n_donors=4, seed=0)
    reference, query = cells[:250].copy(), cells[250:].copy()
    LogisticRegression.setup_anndata(reference, "cell_type", donor_key="donor_id")
    model = LogisticRegression(reference)
    model.train()
    model.save(folder / "model")
    query.obsm["X_umap"] = np.random.default_rng(0).normal(size=(query.n_obs, 2))
    query.write_h5ad(folder / "query.h5ad")
    return folder


def asked(place, output, **more):
    return AnnotateRequest(place / "query.h5ad", place / "model", output, **more)


@pytest.fixture(scope="module")
def made(place):
    """The calls as a table and as an h5ad, each with its report."""
    for name in ("calls.csv", "calls.h5ad"):
        annotate(asked(place, place / name, report=(place / name).with_suffix(f"{name[5:]}.html")))
    return place


# -- beside a result -------------------------------------------------------------------------


def test_a_report_has_every_section_and_stands_alone(made):
    page = good(made / "calls.csv.html")
    facts = page.facts()

    assert tuple(page.headings) == SECTIONS
    assert facts["calls"]["n_obs"] == 150
    assert sum(row["n"] for row in facts["calls"]["labels"]) == 150
    assert facts["labels"]["column"] == "cell_type"
    assert set(facts["composition"]) >= {"donor_id"}
    assert facts["shift"]["n_cells"] == 150
    assert facts["provenance"]["device"] == "cpu"
    assert facts["provenance"]["seconds"] > 0
    assert len(facts["provenance"]["input_sha256"]) == 64
    assert facts["genes"][0]["share"] > 0
    assert facts["repeat"]["command"] == "episome annotate query.h5ad -m model -o calls.csv"
    assert "by UMAP, coloured by type" in " ".join(page.figures)


def test_the_code_of_a_report_gives_the_same_calls(made, monkeypatch, tmp_path):
    shutil.copyfile(made / "query.h5ad", tmp_path / "query.h5ad")
    shutil.copytree(made / "model", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    code = good(made / "calls.csv.html").facts()["repeat"]["python"]

    exec(compile(code, "report", "exec"), {})

    assert (tmp_path / "calls.csv").read_bytes() == (made / "calls.csv").read_bytes()


def test_options_are_in_the_command_of_a_report(place, tmp_path):
    path = tmp_path / "r.html"
    asks = asked(
        place, None, report=path, min_confidence=0.5, use_raw=False, where=("donor_id!=x",),
        scores=("s=GENE1,GENE2",), nan="zero", report_names=("my <cells>.h5ad", "a model"),
    )  # fmt: skip

    result = annotate(asks)

    facts = good(path).facts()
    assert result.report == path
    assert facts["repeat"]["command"] == (
        "episome annotate 'my <cells>.h5ad' -m 'a model' --where 'donor_id!=x' "
        "--score s=GENE1,GENE2 --min-confidence 0.5 --nan zero"
    )
    assert "query.h5ad" not in path.read_text()
    assert facts["threshold"] == 0.5


def test_a_streamed_annotation_has_the_report_of_one_in_memory(made, tmp_path, monkeypatch):
    monkeypatch.setattr(_streamed, "PART", 64)
    path = tmp_path / "calls.html"

    result = annotate(asked(made, tmp_path / "calls.csv", report=path))

    one, two = good(made / "calls.csv.html").facts(), good(path).facts()
    assert result.calls is None
    assert not list(tmp_path.glob("*.parts"))
    for key in ("calls", "composition", "shift", "genes", "calibration"):
        assert two[key] == one[key]
    assert two["labels"]["n_right"] == one["labels"]["n_right"]


def test_a_report_that_cannot_be_made_is_a_warning_and_the_calls_are_there(
    place, tmp_path, monkeypatch
):
    def broken(*_, **__):
        msg = "no picture"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr(_report_facts, "call_maps", broken)

    with pytest.warns(EpisomeWarning, match=r"(?s)could not be made.*no picture.*E-F41"):
        result = annotate(asked(place, tmp_path / "calls.csv", report=tmp_path / "calls.html"))

    assert result.report is None
    assert len(pd.read_csv(tmp_path / "calls.csv")) == 150
    assert not (tmp_path / "calls.html").exists()


def test_a_report_is_refused_before_any_work(place, tmp_path):
    there = tmp_path / "r.html"
    there.write_text("mine")

    with pytest.raises(InputFileError, match="E-F26"):
        annotate(asked(place, tmp_path / "calls.csv", report=there))
    with pytest.raises(UsageError, match=r"reports cannot be written as \.pdf.*E-U08"):
        annotate(asked(place, tmp_path / "calls.csv", report=tmp_path / "r.pdf"))

    assert there.read_text() == "mine"
    assert not (tmp_path / "calls.csv").exists()


def test_scores_have_a_report_now_and_later(place, tmp_path):
    request = EvaluateRequest(
        place / "query.h5ad", place / "model", tmp_path / "scores.json", labels_key="cell_type",
        donor_key="donor_id", report=tmp_path / "now.html", n_draws=50,
    )  # fmt: skip

    result = evaluate(request)
    later = report(ReportRequest(tmp_path / "scores.json", model=place / "model"))

    assert result.report == tmp_path / "now.html"
    assert (later.output, later.kind) == (tmp_path / "scores.html", "evaluation")
    now, then = good(result.report), good(later.output)
    assert "Shift against the training cells" in now.headings
    assert "--labels-key cell_type --donor-key donor_id" in now.facts()["repeat"]["command"]
    for key in ("scores", "pairs", "calibration", "genes"):
        assert then.facts()[key] == now.facts()[key]
    curve = now.facts()["calibration"]["risk_coverage"]
    assert curve["kept"][-1] == 1
    assert curve["wrong"][-1] == pytest.approx(1 - result.scores["accuracy"])


# -- later -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calls.csv", "calls.h5ad"])
def test_a_report_is_made_later_from_calls_model_and_cells(made, tmp_path, name):
    given = {} if name.endswith("h5ad") else {"input": made / "query.h5ad"}

    result = report(ReportRequest(made / name, tmp_path / "r.html", model=made / "model", **given))

    now, then = good(made / f"{name}.html"), good(result.output)
    assert result.kind == "annotation"
    assert tuple(then.headings) == SECTIONS
    for key in ("labels", "composition", "genes", "calibration"):
        assert then.facts()[key] == now.facts()[key]
    assert then.facts()["calls"]["labels"] == now.facts()["calls"]["labels"]


def test_calls_alone_have_a_report_of_what_is_known(made, tmp_path):
    calls = pd.read_csv(made / "calls.csv", index_col=0).add_prefix("my_")
    calls.to_parquet(tmp_path / "calls.parquet")

    result = report(ReportRequest(tmp_path / "calls.parquet"))

    page = good(result.output)
    assert result.output == tmp_path / "calls.html"
    assert page.facts()["calls"]["n_obs"] == 150
    assert "The model keeps no calibration" in page.text
    assert "Composition" not in page.headings


def test_some_of_the_cells_are_found_by_name(made, tmp_path):
    calls = pd.read_csv(made / "calls.csv", index_col=0).iloc[::-3]
    calls.to_csv(tmp_path / "some.tsv", sep="\t")
    cells = anndata.read_h5ad(made / "query.h5ad")

    result = report(ReportRequest(tmp_path / "some.tsv", input=made / "query.h5ad"))

    found = good(result.output).facts()["labels"]
    truth = cells.obs.loc[calls.index, "cell_type"].astype(str)
    assert (found["n"], found["n_right"]) == (50, int((truth == calls["label"]).sum()))


def test_a_trained_model_has_a_report(made, tmp_path):
    result = report(ReportRequest(made / "model", tmp_path / "m.html"))

    page = good(result.output)
    assert result.kind == "training"
    assert page.facts()["fit"]["n_cells"] == 250
    assert page.facts()["genes"]


def test_an_audit_has_a_report(tmp_path):
    n = 40
    table = pd.DataFrame(
        {
            "label": ["a", "b"] * (n // 2),
            "suggested": ["b"] * n,
            "p_label": 0.1,
            "score": [0.9, np.nan] * (n // 2),
            "wrong": [True, None] * (n // 2),
        },
        index=[f"<c{i}>" for i in range(n)],
    )
    table.to_csv(tmp_path / "audit.csv")

    result = report(ReportRequest(tmp_path / "audit.csv"))

    page = good(result.output)
    assert result.kind == "audit"
    assert page.facts()["pairs"] == [{"label": "a", "suggested": "b", "n_cells": 20}]
    assert "20 of 20 labels that were judged look wrong; 20 were not judged." in page.text


def test_what_no_report_is_made_of_is_said(made, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "empty").mkdir()

    for name in ("notes.txt", "other.csv", "other.json", "empty"):
        with pytest.raises(InputFileError, match=r"(?s)no report can be made of this.*E-F40"):
            report(ReportRequest(tmp_path / name, tmp_path / "r.html"))
    with pytest.raises(InputFileError, match="E-F07"):
        report(ReportRequest(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match="E-U04"):
        report(ReportRequest(made / "calls.h5ad", tmp_path / "r.html", labels_key="none"))
    assert not (tmp_path / "r.html").exists()


def test_the_model_and_the_cells_have_to_be_those_of_the_calls(made, tmp_path):
    other = simulate_cells(80, 60, n_types=3, n_donors=4, seed=1)
    LogisticRegression.setup_anndata(other, "cell_type")
    model = LogisticRegression(other)
    model.train()
    model.save(tmp_path / "other")
    other.obs_names = [f"x{i}" for i in range(80)]
    simulate_cells(20, 10, n_types=2, n_donors=2, seed=1).write_h5ad(tmp_path / "few.h5ad")

    with pytest.raises(UsageError, match=r"(?s)calls are of another model.*E-U132"):
        report(ReportRequest(made / "calls.h5ad", tmp_path / "r.html", model=tmp_path / "other"))
    with pytest.raises(UsageError, match=r"(?s)not those of the calls.*E-U45"):
        report(ReportRequest(made / "calls.csv", tmp_path / "r.html", input=tmp_path / "few.h5ad"))


# -- names that are no names, and many of them -----------------------------------------------


def test_names_of_types_are_text_and_nothing_else(tmp_path):
    names = ["--><script>alert(1)</script>", "]]></style>", "$x^{2", "</script>", "\u202eevil"]
    calls = pd.DataFrame({"label": names * 3, "confidence": 0.5, "novelty": 0.5, "status": "x"})
    summary = CallSummary.of(calls)
    facts = {"input": {"name": names[0], "n_obs": 15}, "calls": summary.facts()}
    facts["composition"] = {names[1]: {n: dict.fromkeys(names, 1) for n in names}}
    facts["labels"] = {
        "column": names[3],
        **agreement(np.array(names * 3, object), np.array(names * 3, object), np.ones(15)),
    }
    path = tmp_path / "r.html"

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        annotation_page(facts).write(path)

    page = good(path)
    assert page.text.count("<script") == 2
    assert page.facts()["calls"]["labels"][0]["label"] in names


def test_a_report_of_many_cells_and_types_stays_small(tmp_path):
    n, rng = 200_000, np.random.default_rng(0)
    names = np.array([f"a type of cell with a long name, number {i}" for i in range(200)])
    codes = rng.integers(0, 200, n)
    summary = CallSummary(keep=True)
    for start in range(0, n, 50_000):
        part = slice(start, start + 50_000)
        sure = rng.random(50_000)
        frame = {"label": names[codes[part]], "confidence": sure, "novelty": 1 - sure}
        summary.add(pd.DataFrame(frame).assign(status="assigned", label_ontology_term_id=""))
    cells = anndata.AnnData(
        obs=pd.DataFrame({"donor": pd.Categorical(rng.integers(0, 30, n).astype(str))}),
        obsm={"X_umap": rng.normal(size=(n, 2)) + codes[:, None] % 14},
    )
    facts = {"input": {"name": "many.h5ad", "n_obs": n}, "calls": summary.facts()}
    facts |= _report_facts.obs_facts(cells.obs, summary)

    page = annotation_page(facts, pictures=_report_facts.call_maps(cells, None, summary))
    page.write(tmp_path / "r.html")

    assert good(tmp_path / "r.html").facts()["calls"]["n_obs"] == n


def test_columns_of_samples_are_told_from_others():
    obs = pd.DataFrame(
        {
            "score": [0.1, 0.2, 0.3, 0.4],
            "phase_ontology_term_id": ["P:1", "P:2", "P:1", "P:2"],  # the phases once more
            "phase": ["G1", "S", "G1", "S"],
            "cell_type": ["a", "b", "a", "b"],
            "name": ["w", "x", "y", "z"],
            "donor_id": ["d1", "d1", "d2", None],
            "one": ["x"] * 4,
        }
    )

    assert sample_columns(obs, {"a", "b"}, most=3) == ["donor_id", "phase"]


def test_agreement_needs_labels_that_are_calls():
    called, sure = np.array(["a", "b", "a"], object), np.array([0.9, 0.8, 0.1])

    found = agreement(np.array(["a", "a", None], object), called, sure)

    assert (found["n"], found["n_right"]) == (2, 1)
    assert found["risk_coverage"]["wrong"] == [0.0, 0.5]
    assert agreement(np.array(["x", "y", "z"], object), called, sure) is None
    assert agreement(np.array([1, 2, 3], object), called, sure) is None


def test_rows_that_are_looked_at_lie_evenly_in_runs():
    rows = _report_facts.spread_rows(1_000_000)

    assert len(rows) == 2_000
    assert (np.diff(rows) == 1).sum() == 8 * 249
    assert (rows[0], rows[-1]) == (0, 999_999)
    assert list(_report_facts.spread_rows(3)) == [0, 1, 2]


def test_a_map_of_scanpy_is_coloured_by_what_annotate_wrote(made):
    scanpy = pytest.importorskip("scanpy")
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cells = scanpy.read_h5ad(made / "calls.h5ad")

    ax = scanpy.pl.umap(cells, color="episome_label", show=False)

    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert sorted(names) == sorted(cells.obs["episome_label"].unique())
    plt.close("all")


def test_a_model_that_was_never_calibrated_tells_nothing_of_shift():
    never = SimpleNamespace(confidence=SimpleNamespace(scores=None))

    assert _report_facts.shift_facts(never, None) is None
    (part,) = shift_parts(None)
    assert "Nothing is kept" in part.text
