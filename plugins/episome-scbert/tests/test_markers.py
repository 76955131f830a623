"""The task that takes markers out of training and test cells."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from episome.benchmark import LABEL, Case, DataEntry, ModelEntry, TaskData
from episome.errors import InputFileError, UsageError
from episome.testing import synthetic_adata
from episome_scbert.markers import MarkerDeletionTask, marker_columns, read_names


def case_of(condition: str = "", base: object = None, **options: object) -> Case:
    adata = synthetic_adata(120, 40)
    adata.obs[LABEL] = adata.obs["cell_type"].astype(str)
    train, test = adata[:80].copy(), adata[80:].copy()
    truth = test.obs.copy()
    test.obs = test.obs[[]]
    task = MarkerDeletionTask()
    return Case(
        train,
        test,
        truth,
        DataEntry("cells", "cells.h5ad"),
        ModelEntry("centroid"),
        seed=0,
        condition=condition,
        options=task.options(dict(options)),
        base=base,
    )


def test_genes_are_gone_from_training_and_test_and_larger_shares_hold_smaller_ones(monkeypatch):
    genes = tuple(f"GENE{i}" for i in range(10))
    seen = {}
    fitted = Case.fitted

    def watch(case: Case, train: object = None, **more: object) -> object:
        seen[case.condition] = set(train.var_names)
        return fitted(case, train, **more)

    monkeypatch.setattr(Case, "fitted", watch)
    for share in (0, 50, 100):
        condition = f"without {share} % of the markers"
        out = MarkerDeletionTask().run(case_of(condition, genes=genes))
        assert out.scores[condition]["n_deleted"] == share / 10
        assert 0 <= out.scores[condition]["f1_macro"] <= 1

    none, half, every = (seen[f"without {s} % of the markers"] for s in (0, 50, 100))
    assert len(none) == 40
    assert every < half < none
    assert none - every == set(genes)


def test_lists_are_read_from_sets_and_tables(tmp_path):
    (tmp_path / "m.gmt").write_text("B\tx\tGENE1\tGENE2\nT\tx\tGENE3\n")
    pd.DataFrame({"Cell": ["B"], "Gene": ["GENE7"]}).to_csv(tmp_path / "m.csv", index=False)
    with gzip.open(tmp_path / "m.tsv.gz", "wt") as file:
        file.write("official gene symbol\tcell type\nGENE4\tB\n")

    assert read_names(tmp_path / "m.gmt") == ["GENE1", "GENE2", "GENE3"]
    assert read_names(tmp_path / "m.csv") == ["GENE7"]
    assert read_names(tmp_path / "m.tsv.gz") == ["GENE4"]
    found = marker_columns(case_of(markers="m.gmt", base=tmp_path))
    assert np.array_equal(found, [1, 2, 3])


def test_lists_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputFileError, match="E-F07"):
        read_names(tmp_path / "none.gmt")
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputFileError, match=r"no column of genes.*E-F22"):
        read_names(tmp_path / "m.csv")
    with pytest.raises(UsageError, match=r"none of the markers.*E-B09"):
        marker_columns(case_of(genes=("NO_GENE",)))


def test_options_that_make_no_sense_are_refused():
    task, data = MarkerDeletionTask(), TaskData(DataEntry("", ""), synthetic_adata(10, 10))

    with pytest.raises(UsageError, match=r"one list of markers.*E-B09"):
        task.conditions(data, task.options({}))
    with pytest.raises(UsageError, match=r"shares holds 2.*E-B09"):
        task.conditions(data, task.options({"genes": ("A",), "shares": (0.0, 2.0)}))
    assert task.conditions(data, task.options({"genes": ("A",)})) == (
        "without 0 % of the markers",
        "without 10 % of the markers",
        "without 50 % of the markers",
        "without 100 % of the markers",
    )
