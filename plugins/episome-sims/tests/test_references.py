"""Several references as one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from episome.data import simulate_cells
from episome.errors import GeneMatchError, InputDataError, UsageError
from episome.models import SIMS
from episome.testing import fingerprint


@pytest.fixture
def two() -> dict[str, AnnData]:
    cells = simulate_cells(100, 60, n_types=3, n_donors=4, seed=0)
    first = cells[:60, :50].copy()
    second = cells[60:, np.arange(59, 9, -1)].copy()
    return {"a": first, "b": second}


def test_genes_in_all_references_are_aligned_by_name(two: dict[str, AnnData]) -> None:
    before = {n: fingerprint(a) for n, a in two.items()}

    merged = SIMS.merge_references(two, "cell_type", donor_key="donor_id")

    assert merged.shape == (100, 40)
    assert list(merged.var_names) == list(two["a"].var_names[10:])
    for name, adata in two.items():
        rows = (merged.obs["reference"] == name).to_numpy()
        wanted = adata[:, merged.var_names].X.toarray()
        assert np.array_equal(merged[rows].X.toarray(), wanted)
        assert list(merged.obs_names[rows]) == [f"{name}:{c}" for c in adata.obs_names]
        donors = merged.obs.loc[rows, "donor_id"]
        assert set(donors) == {f"{name}:{d}" for d in adata.obs["donor_id"]}
        assert list(merged.obs.loc[rows, "cell_type"]) == list(adata.obs["cell_type"])
        assert fingerprint(adata) == before[name]
    assert sparse.isspmatrix_csr(merged.X)
    assert merged.X.dtype == np.float32


def test_union_counts_genes_that_were_not_measured_as_zero(two: dict[str, AnnData]) -> None:
    merged = SIMS.merge_references(two, "cell_type", genes="union")

    assert merged.shape == (100, 60)
    lines = list(merged.uns["merge_report"])
    assert "a: 60 cells, 50 of 60 genes; the others count as zero" in lines
    only_b = [g for g in two["b"].var_names if g not in set(two["a"].var_names)]
    assert merged[:60, only_b].X.nnz == 0
    assert np.array_equal(merged[60:, only_b].X.toarray(), two["b"][:, only_b].X.toarray())


def test_merged_references_train_a_model(two: dict[str, AnnData]) -> None:
    merged = SIMS.merge_references(two, "cell_type", donor_key="donor_id")
    SIMS.setup_anndata(merged, "cell_type", donor_key="donor_id")
    model = SIMS(merged, n_d=8, n_a=4)

    model.train(1, accelerator="cpu")

    assert model.fit_["split_by"] == "donor"
    assert len(model.predict(two["a"])) == 60


def test_columns_may_have_another_name_in_every_reference(two: dict[str, AnnData]) -> None:
    two["b"].obs = two["b"].obs.rename(columns={"cell_type": "type", "donor_id": "sample"})

    merged = SIMS.merge_references(
        two,
        {"a": "cell_type", "b": "type"},
        donor_key={"a": "donor_id", "b": "sample"},
        reference_key="study",
    )

    assert merged.obs["cell_type"].nunique() == 3
    assert set(merged.obs["study"]) == {"a", "b"}


def test_types_of_one_reference_are_told(two: dict[str, AnnData]) -> None:
    two["b"].obs["cell_type"] = two["b"].obs["cell_type"].astype(str).replace("type 0", "zero")

    merged = SIMS.merge_references(two, "cell_type")

    assert "2 of 4 types are in one reference only: type 0, zero" in merged.uns["merge_report"]


def test_missing_labels_and_donors_stay_missing(two: dict[str, AnnData]) -> None:
    adata = two["a"]
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).mask(np.arange(60) < 5)
    adata.obs["donor_id"] = adata.obs["donor_id"].astype(str).mask(np.arange(60) < 7)

    merged = SIMS.merge_references(two, "cell_type", donor_key="donor_id")
    plain = SIMS.merge_references(two, "cell_type")

    assert (merged.obs["cell_type"] == "unknown").sum() == 5
    assert merged.obs["donor_id"].isna().sum() == 7
    assert set(plain.obs["donor_id"]) == {"a", "b"}


def test_names_with_versions_or_symbols_are_the_same_genes() -> None:
    ids = [f"ENSG{i:011d}" for i in range(20)]
    symbols = [f"SYM{i}A" for i in range(20)]
    counts = sparse.random(30, 20, 0.5, "csr", dtype=np.float32, random_state=0).ceil()
    obs = pd.DataFrame({"cell_type": ["x", "y"] * 15}, index=[f"c{i}" for i in range(30)])
    a = AnnData(counts, obs=obs, var=pd.DataFrame({"gene_symbols": symbols}, index=ids))
    b = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"{i}.7" for i in ids]))
    c = AnnData(counts, obs=obs, var=pd.DataFrame(index=symbols))

    merged = SIMS.merge_references({"a": a, "b": b, "c": c}, "cell_type")

    assert merged.shape == (90, 20)
    assert np.array_equal(merged[:30].X.toarray(), merged[60:].X.toarray())
    assert list(merged.var["gene_symbols"]) == symbols


def test_references_of_different_kinds_are_refused(two: dict[str, AnnData]) -> None:
    x = two["b"].X
    two["b"].X = sparse.csr_matrix(sparse.diags(1e4 / x.sum(1).A1) @ x).log1p()

    with pytest.raises(InputDataError, match=r"different kinds.*a holds counts.*E-D07"):
        SIMS.merge_references(two, "cell_type")


def test_references_that_cannot_be_merged_are_refused(two: dict[str, AnnData]) -> None:
    def refused(match: str, error: type[Exception], data: object, *args: object) -> None:
        with pytest.raises(error, match=match):
            SIMS.merge_references(data, *args)

    refused(r"1 references.*E-U24", UsageError, {"a": two["a"]}, "cell_type")
    refused(r"no_such.*E-U04", UsageError, two, "no_such")
    other = two["b"].copy()
    other.var_names = [f"OTHER{i}X" for i in range(other.n_vars)]
    refused(r"no gene is in all.*E-G02", GeneMatchError, {**two, "b": other}, "cell_type")
    twice = two["b"].copy()
    twice.var_names = [*twice.var_names[:-1], twice.var_names[0]]
    refused(r"E-G11", InputDataError, {**two, "b": twice}, "cell_type")
    with pytest.raises(UsageError, match=r"genes=.*union.*E-U30"):
        SIMS.merge_references(two, "cell_type", genes="all")
