"""``episome audit`` and its job: what is written, what is refused, what nothing changes."""

from __future__ import annotations

import hashlib
import json

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from episome import settings
from episome.cli import _app
from episome.cli._errors import guarded
from episome.data import simulate_cells
from episome.errors import EpisomeError
from episome.jobs import AuditRequest, audit

N = 240


@pytest.fixture(autouse=True)
def _settings(monkeypatch, fresh_manager):
    monkeypatch.setattr(settings, "seed", 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = simulate_cells(N, 40, n_types=3, n_donors=6, seed=2)
    truth = cells.obs["cell_type"].to_numpy(dtype=str).astype(object)
    cells.obs["truth"] = truth
    labels, rows = truth.copy(), np.random.default_rng(0).choice(N, 12, replace=False)
    for row in rows:
        labels[row] = {"type 0": "type 1", "type 1": "type 2", "type 2": "type 0"}[truth[row]]
    cells.obs["cell_type"] = pd.Categorical(labels)
    cells.write_h5ad(folder / "cells.h5ad")
    return folder


def run(*arguments):
    return CliRunner().invoke(_app.app, [str(a) for a in arguments], catch_exceptions=False)


def ask(files, output, *more):
    words = ["--labels-key", "cell_type", "--donor-key", "donor_id", "--method", "centroid"]
    out = [] if output is None else ["-o", output]
    return run("audit", files / "cells.h5ad", *words, "--folds", "3", *out, *more)


@pytest.fixture(scope="module")
def table(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "audit.csv"
    done = ask(files, path, "--cluster-key", "truth", "--json")
    assert done.exit_code == 0, done.output
    return pd.read_csv(path, index_col=0, keep_default_na=False), json.loads(done.stdout)


def test_the_table_ranks_the_cells_and_the_answer_holds_the_rest(files, table):
    cells, answer = table
    given = anndata.read_h5ad(files / "cells.h5ad").obs

    assert list(cells.index) == list(given.index)
    assert list(cells["label"]) == list(given["cell_type"])
    bad = (given["cell_type"].astype(str) != given["truth"].astype(str)).to_numpy()
    wrong = cells["wrong"].astype(str).eq("True").to_numpy()
    assert bad[wrong].mean() >= 0.9
    assert wrong[bad].mean() >= 0.7
    assert answer["metrics"]["n_wrong"] == wrong.sum()
    assert answer["held_out_by"] == "donor"
    assert answer["n_folds"] == 3
    assert {r["verdict"] for r in answer["pairs"]} <= {"", "wrong labels"}
    assert sum(r["n_cells"] for r in answer["clusters"]) == N
    assert answer["genes"][0]["evidence"] == "difference of means"
    assert answer["n_corrected"] == 0
    assert "audit_corrected" not in cells


def test_an_h5ad_is_a_copy_with_new_columns_and_the_input_stays(files, tmp_path, table):
    before = hashlib.sha256((files / "cells.h5ad").read_bytes()).hexdigest()

    done = ask(files, tmp_path / "out.h5ad", "--corrected", "better")

    assert done.exit_code == 0, done.output
    assert hashlib.sha256((files / "cells.h5ad").read_bytes()).hexdigest() == before
    old, new = anndata.read_h5ad(files / "cells.h5ad"), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(new.obs.columns[: len(old.obs.columns)]) == list(old.obs.columns)
    assert (new.X != old.X).nnz == 0
    assert list(new.obs["audit_label"]) == list(old.obs["cell_type"])
    assert list(new.obs["audit_rank"]) == list(table[0]["rank"])
    changed = new.obs["better"].astype(str) != old.obs["cell_type"].astype(str)
    assert (changed == new.obs["audit_wrong"]).all()
    assert (new.obs.loc[changed, "better"] == new.obs.loc[changed, "audit_suggested"]).all()
    truth = old.obs["truth"].astype(str)
    assert (new.obs["better"].astype(str) == truth).mean() > (
        old.obs["cell_type"].astype(str) == truth
    ).mean()
    assert new.uns["episome"]["audit"]["held_out_by"] == "donor"
    assert f"{changed.sum():,} labels are others in better" in done.stdout


def test_a_table_gets_a_corrected_column_only_on_request(files, tmp_path):
    path = tmp_path / "audit.parquet"

    done = ask(files, path, "--corrected", "new", "--threshold", "0.99", "--rounds", "1")

    assert done.exit_code == 0, done.output
    found = pd.read_parquet(path)
    taken = found["score"] >= 0.99
    assert (found["new"] == found["label"].where(~taken, found["suggested"])).all()


def test_a_dry_run_checks_everything_and_writes_nothing(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    text, answer = ask(files, None, "--dry-run"), ask(files, None, "--dry-run", "--json")

    assert text.exit_code == answer.exit_code == 0
    assert "240 of 240 cells of 3 classes would be judged by NearestCentroid" in text.stdout
    assert json.loads(answer.stdout)["dry_run"] is True
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_again_does_nothing(files, tmp_path):
    path = tmp_path / "audit.csv"
    first = ask(files, path, "--rounds", "1")
    made = path.stat().st_mtime_ns

    again = ask(files, path, "--rounds", "1", "--json")

    assert first.exit_code == again.exit_code == 0
    assert json.loads(again.stdout)["repeated"] is True
    assert path.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("options", "code", "kind"),
    [
        ({"setup": {"labels_key": "nothing"}}, 2, "E-U04"),
        ({"cluster_key": "nothing"}, 2, "E-U04"),
        ({"setup": {"labels_key": "cell_type", "layers": "x"}}, 2, "E-U24"),
        ({"model": {"depth": 3}}, 2, "E-U24"),
        ({"train": {"epochs": 3}}, 2, "E-U"),
        ({"method": "pca"}, 2, "E-U12"),
        ({"method": "nothing"}, 5, "E-P01"),
        ({"threshold": 2.0}, 2, "E-U65"),
        ({"false_discoveries": 1.0}, 2, "E-U65"),
        ({"n_folds": 1}, 2, "E-U68"),
        ({"output": "calls.txt"}, 2, "E-U08"),
        ({"output": "cells.h5ad"}, 3, "E-F25"),
        ({"input": "nothing.h5ad"}, 3, "E-F07"),
        ({"input": "."}, 2, "E-U83"),
        ({"output": "o.h5ad", "corrected": "batch"}, 2, "E-L16"),
        ({"output": "o.h5ad", "prefix": "", "corrected": "label"}, 2, "E-L16"),
    ],
)
def test_what_cannot_be_done_is_refused_and_writes_nothing(files, options, code, kind):
    paths = {"input": "cells.h5ad", "output": "audit.csv"}
    paths |= {k: options[k] for k in paths if k in options}
    asked = {"setup": {"labels_key": "cell_type"}, "method": "centroid", **options}
    asked |= {k: files / v for k, v in paths.items()}
    before = sorted(files.iterdir())

    with pytest.raises(EpisomeError, match=kind) as error:
        audit(AuditRequest(**asked), progress=_never)

    assert error.value.exit_code == code
    assert sorted(files.iterdir()) == before


def _never(done: int, total: int) -> None:
    pytest.fail("a model was trained")


def test_a_threshold_without_a_corrected_column_means_nothing(files, capsys):
    words = ["audit", str(files / "cells.h5ad"), "--labels-key", "cell_type", "--threshold", "0.9"]

    code = guarded(lambda a: _app.app(a, standalone_mode=False), words)

    assert code == 2
    assert "E-U34" in capsys.readouterr().err
