"""`episome models convert` between scvi-tools' folders and ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from episome.cli._app import app
from episome.data import simulate_cells
from episome.models import load
from episome_datamix import LDVAE


def run(*words):
    return CliRunner().invoke(app, ["models", "convert", *map(str, words), "--json"])


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = simulate_cells(80, 30, n_types=2)
    cells.write_h5ad("cells.h5ad")
    LDVAE.setup_anndata(cells)
    made = LDVAE(cells, n_latent=3)
    made.train(max_epochs=1, accelerator="cpu")
    made.save("ours")
    return made


def test_a_model_goes_to_scvi_tools_and_back(model):
    there = run("ours", "--to", "linear-scvi-export", "--data", "cells.h5ad", "-o", "theirs")
    assert there.exit_code == 0, there.output
    back = ("theirs", "--from", "linear-scvi", "--data", "cells.h5ad", "-o", "back")
    refused = run(*back)
    assert json.loads(refused.stdout.splitlines()[-1])["error"]["code"] == "E-M02"
    assert not Path("back").exists()
    done = run(*back, "--trust")
    assert done.exit_code == 0, done.output

    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["model"], found["n_genes"]) == ("LDVAE", 30)
    cells = simulate_cells(80, 30, n_types=2)
    np.testing.assert_array_equal(
        load("back").get_latent_representation(cells), model.get_latent_representation(cells)
    )


def test_a_folder_that_is_none_is_refused(model):
    Path("empty").mkdir()

    wrong = run("empty", "--from", "linear-scvi", "--data", "cells.h5ad", "--trust", "-o", "back")

    assert json.loads(wrong.stdout.splitlines()[-1])["error"]["code"] == "E-M31"
    assert not Path("back").exists()
