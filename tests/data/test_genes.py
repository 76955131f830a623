"""Variable genes: scanpy's, and exactly as many as asked for."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from episome.data import simulate_cells, variable_genes


def logged(n_genes, seed=0):
    adata = simulate_cells(200, n_genes, seed=seed)
    counts = adata.X.toarray()
    return sparse.csr_matrix(np.log1p(counts / counts.sum(1, keepdims=True) * 1e4))


def scanpys(values, n):
    adata = anndata.AnnData(values)
    adata.uns["log1p"] = {"base": None}
    table = sc.pp.highly_variable_genes(adata, n_top_genes=n, flavor="seurat", inplace=False)
    return set(np.flatnonzero(table["highly_variable"]))


@pytest.mark.parametrize("n", [50, 200])
def test_genes_are_scanpys(n):
    values = logged(600)

    got = set(variable_genes(values, n))

    assert got <= scanpys(values, n)
    assert len(got) == n


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 5, 10, 39])
def test_there_are_as_many_as_asked_for_where_scanpy_ties(seed, n):
    found = variable_genes(logged(40, seed), n)

    assert len(found) == n
    assert (np.diff(found) > 0).all()
    assert found.dtype == np.int64


def test_genes_without_counts_come_last():
    values = logged(40).toarray()
    values[:, ::2] = 0

    assert set(variable_genes(sparse.csr_matrix(values), 20)) == set(range(1, 40, 2))
    assert len(variable_genes(sparse.csr_matrix(values), 30)) == 30


@pytest.mark.parametrize("n", [None, 40, 100])
def test_all_genes_when_there_are_no_more(n):
    assert variable_genes(logged(40), n).tolist() == list(range(40))


def test_values_are_not_modified():
    values = logged(40)
    before = values.copy()

    variable_genes(values, 10)

    assert (values != before).nnz == 0
