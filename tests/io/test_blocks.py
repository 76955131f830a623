"""Arrays on disk that grow block by block are what anndata reads."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from episome.io import write_expression

VALUES = st.sampled_from([0.0, 1.5, -2.0, float("nan")])
MATRICES = st.tuples(st.integers(0, 12), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=VALUES)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks")


def write(path, values, cuts, *, is_sparse):
    tables = [
        pd.DataFrame(index=[f"{name}{i}" for i in range(n)])
        for name, n in zip("cg", values.shape, strict=True)
    ]
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [values[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    blocks = ((sparse.csr_matrix(p) if is_sparse else p, p + 1) for p in parts)
    options = {"layers": ["more"], "uns": {"unit": "x"}, "overwrite": True}
    write_expression(path, blocks, *tables, sparse=is_sparse, **options)


@given(values=MATRICES, cuts=st.lists(st.integers(0, 12), max_size=4), is_sparse=st.booleans())
def test_blocks_of_any_size_are_one_matrix(folder, values, cuts, is_sparse):
    write(folder / "x.h5ad", values, cuts, is_sparse=is_sparse)

    made = anndata.read_h5ad(folder / "x.h5ad")

    assert sparse.issparse(made.X) is is_sparse
    assert made.X.dtype == np.float32
    found = made.X.toarray() if is_sparse else made.X
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(made.layers["more"], values + 1)
    assert made.uns["unit"] == "x"
    if is_sparse:
        assert made.X.has_canonical_format
        assert made.X.nnz == np.count_nonzero(values)


def test_a_file_of_blocks_is_written_again_by_anndata(folder):
    values = np.eye(6, 4, dtype=np.float32)
    write(folder / "a.h5ad", values, [2, 5], is_sparse=True)

    anndata.read_h5ad(folder / "a.h5ad").write_h5ad(folder / "b.h5ad")

    again = anndata.read_h5ad(folder / "b.h5ad", backed="r")
    part = again[[5, 0, 3]].to_memory().X.toarray()
    again.file.close()
    np.testing.assert_array_equal(part, values[[5, 0, 3]])
