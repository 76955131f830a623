"""Which genes were measured in which cells, where cells of several files stand together."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import (
    AnnDataSource,
    CorpusInput,
    CorpusOptions,
    CorpusSource,
    FeatureSpace,
    ManyCells,
    ScannedSource,
    build_corpus,
    check_corpus_inputs,
    measured_genes,
    plan_corpus,
)


def cells(genes: list[str], n: int, seed: int) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, len(genes))).astype(np.float32)))
    adata.var_names = genes
    adata.obs_names = [f"{seed}-{i}" for i in range(n)]
    return adata


GENES = [f"ENSG{i:011d}" for i in range(12)]


@pytest.fixture
def files(tmp_path):
    first, second = cells(GENES[:9], 7, 1), cells(GENES[4:], 5, 2)
    paths = []
    for name, part in {"first": first, "second": second}.items():
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        paths.append(tmp_path / f"{name}.h5ad")
    return paths


def expected(genes: list[str]) -> np.ndarray:
    first, second = set(GENES[:9]), set(GENES[4:])
    return np.array([[g in of for g in genes] for of in (first, second)])


def test_joined_files_say_which_genes_each_of_them_holds(files):
    source = ManyCells([str(f) for f in files])

    measured, codes = source.panels

    assert np.array_equal(measured, expected(list(source.var.index)))
    assert codes.tolist() == [0] * 7 + [1] * 5
    assert np.array_equal(ScannedSource(source).panels.measured, measured)


def test_a_corpus_knows_the_input_of_every_cell_in_its_own_order(files, tmp_path):
    inputs = [CorpusInput(f) for f in files]
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), CorpusOptions())
    build_corpus(plan, tmp_path / "both.corpus")
    source = CorpusSource(tmp_path / "both.corpus")

    measured, codes = source.panels

    of_name = {"1": "first", "2": "second"}
    rows = [of_name[str(n).rpartition("/")[2].split("-")[0]] for n in source.obs_names]
    genes = list(source.var.index)
    for code, name in zip(codes, rows, strict=True):
        assert np.array_equal(measured[code], expected(genes)[0 if name == "first" else 1])


def test_genes_of_a_model_are_those_that_a_source_measured(files):
    source = ManyCells([str(f) for f in files])
    wanted = [GENES[10], GENES[0], "ENSG99999999999", GENES[5]]
    features = FeatureSpace(tuple(wanted))

    found = measured_genes(source, features.match(source.var))

    assert found is not None
    assert found.measured.tolist() == [[False, True, False, True], [True, False, False, True]]
    assert found.codes.tolist() == [0] * 7 + [1] * 5


def test_nothing_is_said_where_all_genes_were_measured_in_all_cells():
    adata = cells(GENES, 6, 3)
    source = AnnDataSource(adata)
    features = FeatureSpace(tuple(GENES[::-1]))

    assert measured_genes(source, features.match(source.var)) is None


def test_a_gene_that_one_object_lacks_was_measured_in_no_cell():
    source = AnnDataSource(cells(GENES[:5], 6, 3))
    features = FeatureSpace(tuple(GENES[:6]))

    found = measured_genes(source, features.match(source.var))

    assert found.measured.tolist() == [[True] * 5 + [False]]
    assert found.codes.tolist() == [0] * 6


def test_var_tables_without_identifiers_do_not_matter(files):
    named = ad.read_h5ad(files[0])
    named.var["feature_name"] = pd.Index([f"G{i}" for i in range(9)])
    source = ManyCells([named, str(files[1])])

    assert source.panels.measured.shape == (2, source.n_vars)
