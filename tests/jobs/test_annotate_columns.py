"""Columns that ``episome annotate`` writes: prefix, schema, votes, and what is there already."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from episome import settings
from episome.errors import UsageError
from episome.inference import CALL_COLUMNS, VOTE_COLUMNS
from episome.io import SCHEMA_COLUMNS
from episome.jobs import AnnotateRequest, TrainRequest, annotate, train


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model"
    cells = anndata.read_h5ad(files / "reference.h5ad")
    types = ("B cell", "T cell", "monocyte")
    names = dict(zip(sorted(set(cells.obs["cell_type"])), types, strict=True))
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).map(names)
    source = path.parent / "named.h5ad"
    cells.write_h5ad(source)
    with settings.using_seed(0):
        train(TrainRequest("centroid", source, path, setup={"labels_key": "cell_type"}))
    return path


@pytest.fixture
def query(files, tmp_path):
    """A query with clusters and a cell type that somebody gave."""
    cells = anndata.read_h5ad(files / "query.h5ad")
    cells.obs["leiden"] = pd.Categorical((np.arange(cells.n_obs) % 3).astype(str))
    path = tmp_path / "query.h5ad"
    cells.write_h5ad(path)
    cells.obs["cell_type"] = "mine"
    cells.obs["episome_label"] = "mine"
    cells.write_h5ad(tmp_path / "typed.h5ad")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".h5ad"])
@pytest.mark.parametrize("prefix", [None, "", "x_"])
def test_columns_have_the_prefix_in_every_kind_of_file(query, model, tmp_path, suffix, prefix):
    path = tmp_path / f"calls{suffix}"

    result = annotate(
        AnnotateRequest(
            query, model, path, prefix=prefix, cellxgene=True, cluster_key="leiden", batch_size=7
        )
    )

    readers = {
        ".csv": lambda p: pd.read_csv(p, index_col=0),
        ".tsv": lambda p: pd.read_csv(p, index_col=0, sep="\t"),
        ".parquet": pd.read_parquet,
        ".h5ad": lambda p: anndata.read_h5ad(p).obs,
    }
    found = readers[suffix](path)
    used = ("episome_" if suffix == ".h5ad" else "") if prefix is None else prefix
    names = [f"{used}{c}" for c in (*CALL_COLUMNS, *VOTE_COLUMNS)]
    assert [c for c in found.columns if c in {*names, *SCHEMA_COLUMNS}] == [
        *names,
        *SCHEMA_COLUMNS,
    ]
    assert list(result.calls.columns) == [*CALL_COLUMNS, *VOTE_COLUMNS, *SCHEMA_COLUMNS]
    assert found[f"{used}label"].astype(str).tolist() == result.calls["label"].tolist()


def test_votes_and_types_follow_the_calls(query, model):
    calls = annotate(
        AnnotateRequest(query, model, None, cellxgene=True, cluster_key="leiden", batch_size=7)
    ).calls

    clusters = anndata.read_h5ad(query).obs["leiden"].to_numpy()
    for cluster in np.unique(clusters):
        counts = calls["label"][clusters == cluster].value_counts()
        votes = calls[clusters == cluster]
        assert set(votes["cluster_label"]) == {counts.index[0]}
        np.testing.assert_allclose(
            votes["cluster_agreement"], counts.iloc[0] / counts.sum(), rtol=1e-6
        )
        assert (votes["cluster_low"] < votes["cluster_agreement"]).all()
    terms = {"B cell": "CL:0000236", "T cell": "CL:0000084", "monocyte": "CL:0000576"}
    assert (calls["cell_type"] == calls["label"]).all()
    assert (calls["cell_type_ontology_term_id"] == calls["label"].map(terms)).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, r"1 of 8, first: episome_label.*--prefix.*--overwrite-columns.*E-L16"),
        ({"prefix": "x_", "cellxgene": True}, r"first: cell_type\..*--overwrite-columns.*E-L16"),
        (
            {"cellxgene": True, "overwrite": True},
            r"first: cell_type\. To fix: leave cellxgene out.*E-L16",
        ),
    ],
)
def test_what_is_there_already_is_not_replaced_unasked(query, model, tmp_path, options, match):
    out = tmp_path / "out.h5ad"

    with pytest.raises(UsageError, match=match):
        annotate(AnnotateRequest(tmp_path / "typed.h5ad", model, out, **options))

    assert not out.exists()


def test_what_is_there_already_is_replaced_when_told(query, model, tmp_path):
    out = tmp_path / "out.h5ad"

    annotate(
        AnnotateRequest(
            tmp_path / "typed.h5ad", model, out, cellxgene=True, overwrite_columns=True
        )
    )

    obs = anndata.read_h5ad(out).obs
    assert "mine" not in set(obs["cell_type"]) | set(obs["episome_label"])
    assert anndata.read_h5ad(tmp_path / "typed.h5ad").obs["cell_type"].eq("mine").all()


def test_a_wrong_column_of_clusters_is_said_before_anything_is_computed(
    query, model, tmp_path, monkeypatch
):
    def never(*_args, **_kwargs):
        raise AssertionError

    monkeypatch.setattr("episome.inference.Predictor.calls", never)

    with pytest.raises(UsageError, match=r"louvain.*E-U04"):
        annotate(AnnotateRequest(query, model, tmp_path / "out.csv", cluster_key="louvain"))

    assert not (tmp_path / "out.csv").exists()


def test_only_the_wanted_cells_are_annotated(query, model, tmp_path):
    everything = annotate(AnnotateRequest(query, model, None)).calls
    leiden = anndata.read_h5ad(query).obs["leiden"].astype(str).to_numpy()

    one = annotate(AnnotateRequest(query, model, tmp_path / "c.csv", where=("leiden=1",)))
    two = annotate(AnnotateRequest(query, model, None, where=("leiden=0|2", "leiden!=0")))

    pd.testing.assert_frame_equal(one.calls, everything[leiden == "1"])
    pd.testing.assert_frame_equal(two.calls, everything[leiden == "2"])
    voted = annotate(
        AnnotateRequest(query, model, None, where=("leiden=1",), cluster_key="leiden")
    )
    assert set(voted.calls["cluster_label"]) <= set(everything["label"])


@pytest.mark.parametrize(
    ("where", "output", "match"),
    [
        ("leiden=9", "c.csv", "no cells are left.*E-U103"),
        ("louvain=1", "c.csv", "E-U04"),
        ("leiden", "c.csv", "E-U90"),
        ("leiden=1", "c.h5ad", "those of some conditions.*E-U09"),
    ],
)
def test_conditions_that_cannot_be_are_refused(query, model, tmp_path, where, output, match):
    with pytest.raises(UsageError, match=match):
        annotate(AnnotateRequest(query, model, tmp_path / output, where=(where,)))
    assert not (tmp_path / output).exists()
