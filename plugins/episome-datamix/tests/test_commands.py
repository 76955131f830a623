"""``episome mix``: every verb end to end, on simulated pools."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from episome.cli._app import app

KEYS = 'labels_key = "cell_type"\ndonor_key = "donor_id"\n'
PLAN = """
name = "pools"
mixes = ["near", "near+far"]
seeds = [0, 1]
n_cells = 150
n_top_genes = 0

[[models]]
model = "ldvae"
init = { n_hidden = 16, n_latent = 4 }
train = { max_epochs = 10, accelerator = "cpu", plan_kwargs = { lr = 0.02 } }
"""


def mix(*arguments: object, code: int = 0) -> dict:
    """Run a verb, and return its JSON object."""
    found = CliRunner().invoke(app, ["mix", *map(str, arguments), "--json"])
    assert found.exit_code == code, found.output + str(found.exception)
    return json.loads(found.stdout)


@pytest.fixture(scope="module")
def done(pools: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """A plan that was run: its file, its results, and the answer."""
    place = tmp_path_factory.mktemp("mix")
    tables = [f'[corpora.{n}]\nsource = "{n}.h5ad"\n{KEYS}' for n in ("near", "far")]
    tables.append(f'[evaluation.target]\nsource = "target.h5ad"\n{KEYS}')
    file = place / "plan.toml"
    file.write_text("\n".join([PLAN, *tables]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISOME_HOME", str(place / "home"))
        answer = mix("run", file, "--data", pools, "-o", place / "results", "--jobs", 1)
    return file, place / "results", answer


@pytest.mark.slow
def test_runs_and_their_report(done, pools):
    file, place, answer = done

    assert answer["counts"] == {"ok": 4}
    page = (place / "pools.html").read_text()
    assert page.count("<svg") >= 3
    assert "log2 fold change to near" in page
    listed = mix("run", file, "--data", pools, "-o", place, "--dry-run")
    assert len(listed["runs"]) == 4
    assert {r["data"] for r in listed["runs"]} == {"near", "near+far"}
    # Every run has the cells of its seed.
    assert len({r["digest"] for r in listed["runs"]}) == 4


@pytest.mark.slow
def test_reports_comparisons_and_tables(done, tmp_path):
    _, place, _ = done

    for end in ("html", "md", "csv"):
        mix("report", place, "-o", tmp_path / f"mixes.{end}", "--baseline", "near")
    mix("report", place, "-o", tmp_path / "mixes.md", code=3)
    rows = mix("compare", place, "near+far", "near")["rows"]
    assert {(r["model"], r["evaluation"], r["n_units"]) for r in rows} == {
        ("ldvae", "target", 2),
        ("mean of training", "target", 2),
    }
    rows = mix("compare", place, "near+far", "near", "--over", "donors")["rows"]
    assert rows[0]["n_units"] == 4
    assert mix("compare", place, "near+near", "near", code=2)["error"]["code"] == "E-B13"
    wrong = mix("compare", place, "near+far", "near", "--metric", "f2", code=2)["error"]
    assert "there are those of constant, coverage_cells" in wrong["message"]
    assert mix("report", place, "-o", tmp_path / "mixes.pdf", code=2)["error"]["code"] == "E-U30"
    found = mix("compare-plans", place, place, "--baselines", "near,near", code=2)
    assert "have 1 mixes and evaluation sets in common" in found["error"]["message"]
    assert mix("compare-plans", place, place, "--baselines", "near", code=2)["error"]["code"] == (
        "E-U30"
    )


@pytest.mark.slow
def test_runs_that_fail_say_why(done, pools, tmp_path, monkeypatch):
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path / "home"))
    file = tmp_path / "plan.toml"
    file.write_text(done[0].read_text().replace("n_hidden", "n_hiden"))

    answer = mix("run", file, "--data", pools, "-o", tmp_path / "r", "--jobs", 1, code=1)

    assert answer["counts"] == {"failed": 4}
    assert len(answer["reasons"]) == 1
    assert "n_hiden" in answer["reasons"][0]
    assert "n_hiden" in (tmp_path / "r" / "pools.md").read_text()


def test_what_corpora_hold(pools, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text(
        f'[corpora.near]\nsource = "near.h5ad"\n{KEYS}'
        f'[evaluation.target]\nsource = "target.h5ad"\n{KEYS}'
    )

    answer = mix("corpora", file, "--data", pools)

    near, target = answer["rows"]
    assert (near["name"], near["kind"], near["n_cells"], near["n_types"]) == (
        "near",
        "corpus",
        500,
        2,
    )
    assert near["type_entropy"] == pytest.approx(1.0, abs=0.01)
    assert near["n_donors"] == target["n_donors"] == 4
    assert near["shared_genes"] == 1
    assert near["n_genes"] == answer["n_genes"] == 200
    assert 0 < near["n_expressed"] <= 200


@pytest.mark.slow
def test_advice_is_written_and_checked(done, pools, tmp_path):
    file, place, _ = done
    given = ("advise", file, "--data", pools, "-o", place, "--target", "target", "--n-cells", 240)

    answer = mix(*given, "--mixes", 4, "--check", 3, "--jobs", 1)

    assert set(answer["best"]) == {"near", "far"}
    assert sum(answer["best"].values()) == pytest.approx(1)
    assert len(answer["proxies"]) == 4
    assert {r["ranking"] for r in answer["check"]["ranks"]} == {
        "advisor",
        "similarity",
        "coverage",
    }
    assert [m["mix"] for m in answer["check"]["mixes"]][-2:] == ["advised", "equal shares"]
    page = (place / "advice target.html").read_text()
    assert re.search(r"Of the next 240 cells take", page)
    assert "Full runs" in page
    # What an advice ran is not in the way of the plan's own results.
    assert mix("compare", place, "near+far", "near")["rows"]
    assert mix(*given[:7], "elsewhere", *given[8:], code=2)["error"]["code"] == "E-B07"


def test_a_plan_that_cannot_be_read_is_said(tmp_path):
    assert mix("corpora", tmp_path / "none.toml", code=3)["error"]["code"] == "E-B08"
    found = CliRunner().invoke(app, ["mix", "--help"])
    assert "advise" in found.stdout
