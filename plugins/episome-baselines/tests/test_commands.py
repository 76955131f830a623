"""The baselines from the command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from episome.cli._app import app
from episome.data import simulate_cells
from episome.models import load


@pytest.mark.parametrize(
    ("words", "annotates"),
    [
        (["scvi", "--max-epochs", "1", "--set", "n_top_genes=20"], False),
        (["scanvi", "--labels-key", "cell_type", "--max-epochs", "1"], True),
        (["xgboost", "--labels-key", "cell_type"], True),
        (["celltypist", "--labels-key", "cell_type", "--donor-key", "donor_id"], True),
        (["pca"], False),
        (["knn", "--labels-key", "cell_type", "--set", "n_neighbors=5"], True),
    ],
)
def test_training_says_what_it_made(words, annotates, tmp_path):
    cells = simulate_cells(120, 40, n_types=3, n_donors=4, fold_change=3.0, seed=0)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    folder = str(tmp_path / "m")
    method, *more = words

    done = CliRunner().invoke(
        app, ["train", method, str(tmp_path / "cells.h5ad"), *more, "-o", folder]
    )

    assert done.exit_code == 0, done.stderr
    assert "trained on" in done.stdout
    assert load(folder).is_trained_
    if annotates:
        calls = str(tmp_path / "calls.csv")
        done = CliRunner().invoke(
            app, ["annotate", str(tmp_path / "cells.h5ad"), "-m", folder, "-o", calls, "--json"]
        )
        assert json.loads(done.stdout)["ok"]


@pytest.mark.parametrize(
    "words",
    [
        ["knn", "--set", "n_neighbors=0", "E-U31"],
        ["knn", "--set", "n_neighbors=abc", "E-U26"],
        ["knn", "--set", "n_components=0", "E-U31"],
        ["knn", "--set", "n_top_genes=0", "E-U22"],
        ["logreg", "--set", "max_iter=0", "E-U22"],
        ["logreg", "--set", "class_weight=banana", "E-U30"],
        ["logreg", "--set", "penalties=0", "E-U31"],
        ["logreg", "--set", "penalties=[]", "E-U31"],
        ["logreg", "--set", 'penalties="strong"', "E-U31"],
    ],
)
def test_numbers_out_of_range_are_refused(words, tmp_path):
    simulate_cells(60, 20, n_types=2, n_donors=2).write_h5ad(tmp_path / "cells.h5ad")
    method, *more, code = words

    done = CliRunner().invoke(
        app,
        ["train", method, str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type", *more]
        + ["-o", str(tmp_path / "m")],
    )

    assert done.exit_code == 2
    assert code in done.stderr
