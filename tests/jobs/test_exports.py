"""Annotated cells in the forms of other programs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata
import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy import io as scipy_io
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import EpisomeWarning, InputDataError, InputFileError, UsageError
from episome.jobs import ExportRequest, cell_annotation, data_export

TERMS = {"type 0": "CL:0000236", "type 1": "CL:0000548", "unknown": ""}
#: What the published cell annotation schema requires.
CAS = {
    "type": "object",
    "required": ["author_name", "annotations", "labelsets"],
    "properties": {
        "author_name": {"type": "string"},
        "cellannotation_timestamp": {
            "type": "string", "pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$",
        },
        "labelsets": {
            "type": "array",
            "items": {
                "required": ["name"],
                "properties": {
                    "annotation_method": {"enum": ["algorithmic", "manual", "both"]},
                    "automated_annotation": {
                        "required": [
                            "algorithm_name", "algorithm_version", "algorithm_repo_url",
                        ]
                    },
                },
            },
        },
        "annotations": {
            "type": "array",
            "items": {
                "required": ["labelset", "cell_label"],
                "properties": {
                    "cell_ids": {"type": "array", "items": {"type": "string"}},
                    "rationale": {"type": "string", "maxLength": 2000},
                },
            },
        },
    },
}  # fmt: skip


def annotated():
    cells = simulate_cells(60, 20, n_types=2)
    labels = cells.obs["cell_type"].astype(str).to_numpy(copy=True)
    labels[:5] = "unknown"
    cells.obs["episome_label"] = pd.Categorical(labels)
    cells.obs["episome_label_ontology_term_id"] = pd.Categorical([TERMS[t] for t in labels])
    cells.obs["episome_confidence"] = np.linspace(0.5, 1, 60)
    cells.obsm["X_umap"] = np.random.default_rng(0).normal(size=(60, 2))
    cells.uns["episome"] = {"model": "Toy", "plugin": "toy", "episome": "0.1"}
    dense = cells.X.toarray()
    dense[::2] *= dense[::2] > np.median(dense)
    dense[1::2, ::2] = 0
    cells.X = sparse.csr_matrix(dense)
    return cells


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def exported(cells, form, output, **more):
    Path("in.h5ad").unlink(missing_ok=True)
    cells.write_h5ad("in.h5ad")
    before = Path("in.h5ad").read_bytes()
    found = data_export(ExportRequest(Path("in.h5ad"), Path(output), form, **more))
    assert Path("in.h5ad").read_bytes() == before
    return found


def test_an_annotation_has_every_label_with_its_cells():
    cells = annotated()
    exported(cells, "cas", "a.json", author="Ada Lovelace")

    found = json.loads(Path("a.json").read_text())

    jsonschema.validate(found, CAS)
    by_label = {a["cell_label"]: a for a in found["annotations"]}
    assert set(by_label) == set(TERMS)
    assert by_label["type 0"]["cell_ontology_term_id"] == "CL:0000236"
    assert by_label["type 0"]["cell_ontology_term"] == "B cell"
    assert "cell_ontology_term_id" not in by_label["unknown"]
    listed = [c for a in found["annotations"] for c in a["cell_ids"]]
    assert sorted(listed) == sorted(cells.obs_names)
    made = found["labelsets"][0]["automated_annotation"]
    assert (made["algorithm_name"], made["algorithm_version"]) == ("Toy", "0.1")


def test_calls_alone_are_enough_for_an_annotation():
    calls = pd.DataFrame({"label": ["a", "b", "a"]}, index=["x", "y", "z"])

    found = cell_annotation(calls, author="A B", title="t")

    jsonschema.validate(found, CAS)
    assert [a["cell_ids"] for a in found["annotations"]] == [["x", "z"], ["y"]]


def test_counts_in_x_are_float32_and_types_are_those_that_the_schema_allows():
    cells = annotated()
    cells.obs["tissue"] = "lung"
    cells.obs["donor_id"] = "d"
    cells.var["feature_name"] = "x"

    found = exported(cells, "cellxgene", "a.h5ad")

    made = anndata.read_h5ad("a.h5ad")
    assert made.raw is None
    assert (made.X.dtype, made.X.format) == (np.float32, "csr")
    np.testing.assert_array_equal(made.X.toarray(), cells.X.toarray())
    types = made.obs["cell_type_ontology_term_id"].astype(str)
    labels = cells.obs["episome_label"].astype(str).to_numpy()
    assert set(types[labels == "type 0"]) == {"CL:0000236"}
    assert set(types[labels == "type 1"]) == {"unknown"}  # the schema refuses this term
    assert set(types[labels == "unknown"]) == {"unknown"}
    assert not {"tissue", "cell_type"} & set(made.obs)
    assert "feature_name" not in made.var
    assert "obs['donor_id']" not in found.missing
    assert "obs['assay_ontology_term_id']" in found.missing
    assert "uns['organism_ontology_term_id']" in found.missing


@pytest.mark.parametrize("place", ["raw", "layer"])
def test_counts_beside_other_values_go_to_raw(place):
    cells = annotated()
    counts = cells.X.copy()
    if place == "raw":
        cells.raw = cells.copy()
    else:
        cells.layers["counts"] = counts.copy()
    shown = np.log1p(counts.toarray())
    shown[:, 3] = 0
    cells.X = sparse.csr_matrix(shown)

    exported(cells, "cellxgene", "a.h5ad")

    made = anndata.read_h5ad("a.h5ad")
    np.testing.assert_array_equal(made.raw.X.toarray(), counts.toarray())
    assert list(made.raw.var_names) == list(made.var_names)
    filtered = made.var["feature_is_filtered"].to_numpy()
    assert filtered[3]
    assert filtered.sum() == 1


def test_a_vitessce_folder_is_a_config_and_a_store():
    exported(annotated(), "vitessce", "view", title="Mine")

    config = json.loads(Path("view/config.json").read_text())
    store = anndata.read_zarr("view/cells.zarr")

    (file,) = config["datasets"][0]["files"]
    assert file["url"] == "cells.zarr"
    assert file["options"]["obsEmbedding"][0]["path"] == "obsm/X_umap"
    assert config["name"] == "Mine"
    assert {v["component"] for v in config["layout"]} == {
        "scatterplot", "obsSets", "featureList",
    }  # fmt: skip
    assert store.obs["label"].astype(str).tolist() == annotated().obs["episome_label"].tolist()
    assert store.obsm["X_umap"].shape == (60, 2)


def test_a_cell_browser_folder_has_matrix_meta_map_and_settings():
    cells = annotated()
    cells.obs["donor_id"] = "a\tb"
    exported(cells, "cellbrowser", "browser")

    conf = {}
    exec(Path("browser/cellbrowser.conf").read_text(), conf)
    assert conf["coords"] == [{"file": "map.coords.tsv", "shortLabel": "UMAP"}]
    meta = pd.read_csv("browser/meta.tsv", sep="\t", index_col=0)
    assert list(meta.index) == list(cells.obs_names)
    assert set(meta["donor_id"]) == {"a b"}
    with gzip.open("browser/matrix.mtx.gz") as handle:
        assert (scipy_io.mmread(handle).T.tocsr() != cells.X).nnz == 0


def scaled(cells):
    """Cells after the usual preparation for a map: scaled genes in X, all in raw."""
    shown = cells[:, :12].copy()
    values = np.log1p(cells.X.toarray()[:, :12])
    shown.X = ((values - values.mean(axis=0)) / (values.std(axis=0) + 1)).astype("float32")
    return shown


@pytest.mark.parametrize("form", ["vitessce", "cellbrowser"])
def test_viewers_get_the_values_of_raw_where_x_is_scaled(form):
    cells = annotated()
    shown = scaled(cells)
    shown.raw = cells

    found = exported(shown, form, "view")

    assert found.n_vars == 20
    if form == "vitessce":
        matrix = sparse.csr_matrix(anndata.read_zarr("view/cells.zarr").X)
    else:
        with gzip.open("view/matrix.mtx.gz") as handle:
            matrix = scipy_io.mmread(handle).T.tocsr()
    assert (matrix != cells.X).nnz == 0


def test_scaled_values_alone_are_written_with_a_warning():
    with pytest.warns(EpisomeWarning, match=r"scaled by gene.*E-D73"):
        exported(scaled(annotated()), "vitessce", "view")


def test_what_cannot_be_written_is_refused_and_nothing_is():
    cells = annotated()
    bare = cells.copy()
    bare.obs = bare.obs[["cell_type"]]
    flat = cells.copy()
    del flat.obsm["X_umap"]
    logs = cells.copy()
    logs.X = logs.X.log1p()

    with pytest.raises(UsageError, match="E-U142"):
        exported(cells, "cas", "a.json")
    with pytest.raises(UsageError, match="E-U08"):
        exported(cells, "cas", "a.txt", author="A B")
    with pytest.raises(InputDataError, match=r"no column 'episome_label'.*E-D70"):
        exported(bare, "cas", "a.json", author="A B")
    with pytest.raises(InputDataError, match="E-D71"):
        exported(logs, "cellxgene", "a.h5ad")
    for form in ("vitessce", "cellbrowser"):
        with pytest.raises(InputDataError, match="E-D72"):
            exported(flat, form, "view")
    Path("view").mkdir()
    Path("view/mine").write_text("mine")
    with pytest.raises(InputFileError, match="E-F26"):
        exported(cells, "vitessce", "view")

    assert {p.name for p in Path.cwd().iterdir()} == {"in.h5ad", "view"}
    assert Path("view/mine").read_text() == "mine"
