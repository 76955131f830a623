"""Rows of a file that is written to while it is read."""

from __future__ import annotations

import os

import pytest

from episome.data import AnnDataSource, read_cells, simulate_cells
from episome.errors import InputFileError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "cells.h5ad"
    simulate_cells(300, 40, n_types=3, seed=0).write_h5ad(path)
    return path


@pytest.mark.parametrize("harm", ["cut", "written"])
def test_a_file_that_changes_is_refused_not_read_as_zeros(file, harm):
    source = AnnDataSource(read_cells(file, backed=True))
    assert source.read(slice(0, 5)).nnz
    size = file.stat().st_size

    if harm == "cut":
        os.truncate(file, size // 2)
    else:
        with file.open("r+b") as handle:
            handle.seek(size - 1)
            handle.write(b"x")
        os.utime(file, ns=(1, 1))

    with pytest.raises(InputFileError, match="E-F16"):
        source.read(slice(290, 300))


def test_a_file_that_is_replaced_is_read_on(file, tmp_path):
    source = AnnDataSource(read_cells(file, backed=True))
    known = source.read(slice(0, 300)).toarray()
    simulate_cells(10, 40, seed=1).write_h5ad(tmp_path / "other.h5ad")

    (tmp_path / "other.h5ad").replace(file)

    assert (source.read(slice(0, 300)).toarray() == known).all()
