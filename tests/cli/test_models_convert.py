"""`episome models convert`: formats of other programs come from plugins."""

from __future__ import annotations

from pathlib import Path

import pytest
from _program import refused

from episome.data import simulate_cells
from episome.models import PCAEmbedding, load


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("genes.txt").write_text("\n".join(f"GENE{i}" for i in range(30)) + "\n")


def test_a_format_that_no_plugin_knows_lists_those_that_are_known():
    words = ("models", "convert", "genes.txt", "-o", "out")

    refused(2, "E-U140", *words, match="--from celltypist.*--to linear-scvi-export.*--from sims")
    refused(2, "E-U140", *words, "--from", "sims", "--to", "x", match="both")
    refused(2, "E-U140", *words, "--from", "simz", match="did you mean.*sims")
    refused(2, "E-U140", *words, "--to", "sims", match="writes.*linear-scvi-export")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("nowhere.ckpt", "--from", "ssl"), 3, "E-F01"),
        (("genes.txt", "--from", "ssl", "--data", "cells.h5ad"), 2, "E-U141"),
        (("genes.txt", "--from", "linear-scvi", "--trust"), 2, "E-U141"),
        (("genes.txt", "--from", "celltypist"), 4, "E-M36"),
        (("genes.txt", "--from", "ssl", "--set", "width=3"), 2, "E-U24"),
        (("genes.txt", "--from", "ssl", "--set", "train.lr=3"), 2, "E-U26"),
        (("genes.txt", "--from", "ssl", "--genes", "genes.txt"), 4, "E-M31"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_is_written(words, code, kind):
    refused(code, kind, "models", "convert", *words, "-o", "out")

    assert not Path("out").exists()


def test_an_output_that_is_there_stays():
    cells = simulate_cells(60, 30)
    PCAEmbedding.setup_anndata(cells)
    model = PCAEmbedding(cells)
    model.train()
    model.save("pca")

    refused(3, "E-F26", "models", "convert", "genes.txt", "--from", "ssl", "-o", "pca")
    refused(
        3, "E-F26", "models", "convert", "pca", "--to", "linear-scvi-export", "--data", "x.h5ad",
        "-o", "genes.txt",
    )  # fmt: skip
    assert load("pca").is_trained_
