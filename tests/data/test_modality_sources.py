"""One modality of several as a source of cells, in memory and on disk."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome import models
from episome.data import (
    file_modalities,
    in_memory,
    open_source,
    read_modality,
    rna_among,
    simulate_cells,
)
from episome.errors import InputDataError, InputFileError, UsageError
from episome.testing._subject import as_mudata


@pytest.fixture
def mdata():
    """RNA with a layer and raw, and dense proteins of most of its cells."""
    rna = simulate_cells(60, 20, n_types=3, n_donors=3)
    rna.layers["counts"] = rna.X.copy()
    rna.raw = rna.copy()
    rna.X = sparse.csr_matrix(rna.X.log1p())
    rng = np.random.default_rng(0)
    prot = anndata.AnnData(
        rng.poisson(5, (50, 6)).astype(np.float32),
        obs=pd.DataFrame({"cell_type": rna.obs["cell_type"][:50]}, index=rna.obs_names[:50]),
        var=pd.DataFrame(index=[f"CD{i}" for i in range(6)]),
    )
    return as_mudata({"rna": rna, "prot": prot})


@pytest.fixture(params=["h5mu", "zarr"])
def path(request, mdata, tmp_path):
    place = tmp_path / f"cite.{request.param}"
    if request.param == "h5mu":
        mdata.write_h5mu(place)
    else:
        mdata.write_zarr(place)
    return place


ROWS = [slice(5, 40), np.array([33, 2, 2, 49]), np.array([0, 25, 48])]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_any_modality_is_read_from_disk(path, mdata, rows):
    slots = {
        ("rna", "X"): ({}, mdata["rna"].X),
        ("rna", "counts"): ({"layer": "counts"}, mdata["rna"].layers["counts"]),
        ("rna", "raw"): ({"use_raw": True}, mdata["rna"].raw.X),
        ("prot", "X"): ({}, sparse.csr_matrix(mdata["prot"].X)),
    }
    for (modality, _), (arguments, wanted) in slots.items():
        source = open_source(path, modality=modality, backed=True, **arguments)

        assert not in_memory(source)
        np.testing.assert_array_equal(source.read(rows).toarray(), wanted[rows].toarray())
        assert list(source.var.index) == list(mdata[modality].var_names)
        assert list(source.obs_names) == list(mdata[modality].obs_names)
        assert list(source.obs_column("cell_type")) == list(mdata[modality].obs["cell_type"])


def test_a_modality_of_an_object_is_a_source(mdata):
    source = open_source(mdata, modality="prot")

    assert source.where == "mdata['prot'].X"
    assert in_memory(source)
    np.testing.assert_array_equal(source.read(slice(0, 50)).toarray(), mdata["prot"].X)


def test_without_backed_a_modality_is_in_memory(path, mdata):
    found = read_modality(path, "rna")

    assert sparse.issparse(found.X)
    assert (found.X != mdata["rna"].X).nnz == 0


def test_nothing_of_other_modalities_is_read(path, mdata, monkeypatch):
    seen = []
    read_elem = anndata.io.read_elem
    monkeypatch.setattr(
        anndata.io, "read_elem", lambda part: (seen.append(part.name), read_elem(part))[1]
    )

    read_modality(path, "rna", backed=True)

    assert seen
    assert not [name for name in seen if "prot" in name]


def test_a_model_is_the_one_of_the_modality_in_memory(path, mdata):
    model_cls = models.LogisticRegression
    rna = mdata["rna"].copy()
    model_cls.setup_anndata(rna, "cell_type", layer="counts")

    one = model_cls(rna)
    prepared = model_cls.setup_source(path, "cell_type", modality="rna", layer="counts")
    other = model_cls(prepared)
    for model in (one, other):
        model.train()

    assert prepared.where == f"{path.name}['rna'].layers['counts']"
    proba = [m.predict_proba(rna, layer="counts") for m in (one, other)]
    assert (proba[0] == proba[1]).all(axis=None)


def test_what_is_not_there_is_named(path, mdata, tmp_path):
    cells = simulate_cells(10, 5)
    cells.write_h5ad(tmp_path / "cells.h5ad")

    for data in (mdata, path):
        with pytest.raises(UsageError, match=r"modality 'atac' is missing.*prot.*E-U60"):
            open_source(data, modality="atac", backed=True)
    for data in (cells, tmp_path / "cells.h5ad"):
        with pytest.raises(UsageError, match=r"holds no modalities.*leave modality=.*E-U60"):
            open_source(data, modality="rna", backed=True)
    with pytest.raises(InputFileError, match=r"more than memory holds.*E-F09"):
        read_modality(path, "rna", backed=True, max_memory=10)


def test_names_of_modalities_are_told_without_reading(path, tmp_path, monkeypatch):
    simulate_cells(10, 5).write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("mudata.read_h5mu", lambda *a, **k: pytest.fail("it was read"))
    monkeypatch.setattr("mudata.read_zarr", lambda *a, **k: pytest.fail("it was read"))

    assert file_modalities(path) == ["prot", "rna"]
    assert file_modalities(tmp_path / "cells.h5ad") == []
    with pytest.raises(InputFileError, match="E-F07"):
        file_modalities(tmp_path / "nowhere.h5mu")


@pytest.mark.parametrize(
    ("names", "usual", "wanted"),
    [
        (["prot", "rna", "gex"], None, "rna"),
        (["prot", "rna", "gex"], "gex", "gex"),
        (["prot", "rna"], "gex", "rna"),
        (["odd"], None, "odd"),
        (["odd", "prot"], "rna", None),
        ([], "rna", None),
    ],
)
def test_the_rna_is_known_by_its_name(names, usual, wanted):
    assert rna_among(names, usual) == wanted


def test_broken_pointers_are_refused(mdata, tmp_path):
    import h5py

    mdata.write_h5mu(tmp_path / "broken.h5mu")
    with h5py.File(tmp_path / "broken.h5mu", "r+") as file:
        file["mod/rna/X/indptr"][3] = 10**9

    with pytest.raises(InputDataError, match=r"E-D23"):
        read_modality(tmp_path / "broken.h5mu", "rna", backed=True)
