"""Folders of matrix market files: 10x, STARsolo, and the ``outs`` of Cell Ranger.

Only lists of folders are read here; the standard library is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from episome.data._read_names import shown
from episome.errors import InputFileError

_SUFFIXES = (".gz", "")
# Where Cell Ranger puts the cells that it called; of versions 2 to 9, count and multi.
_CELL_RANGER = (
    "filtered_feature_bc_matrix.h5",
    "sample_filtered_feature_bc_matrix.h5",
    "filtered_gene_bc_matrices_h5.h5",
    "filtered_feature_bc_matrix",
    "sample_filtered_feature_bc_matrix",
    "filtered_gene_bc_matrices",
)
# Of a run's folder down to the matrix, first that exists.
_INSIDE = (
    "outs",
    "count",
    "Solo.out",
    "Gene",
    "GeneFull",
    "GeneFull_Ex50pAS",
    "GeneFull_ExonOverIntron",
    "filtered",
)


@dataclass(frozen=True, slots=True)
class MatrixFiles:
    """Files of one matrix.

    ``matrix`` is a matrix market file, or the HDF5 file of Cell Ranger that holds all of it.
    """

    matrix: Path
    features: Path | None = None
    barcodes: Path | None = None


def find_matrix_folder(path: Path) -> MatrixFiles | None:
    """Find the matrix that a folder is about, filtered cells before raw ones.

    Parameters
    ----------
    path
        Folder with ``matrix.mtx``, or a folder of STARsolo or Cell Ranger above it.

    Returns
    -------
    The files, or ``None`` where the folder is about something else.

    Raises
    ------
    InputFileError
        The folder holds several matrices (E-F07).
    """
    if (matrix := _matrix_in(path)) is not None:
        return files_beside(matrix)
    for name in _CELL_RANGER:
        inside = path / name
        if inside.is_file():
            return MatrixFiles(inside)
        if inside.is_dir():
            genomes = [p for p in sorted(inside.iterdir()) if p.is_dir()]
            chosen = genomes[0] if name.endswith("matrices") and len(genomes) == 1 else inside
            return find_matrix_folder(chosen)
    for name in _INSIDE:
        if (path / name).is_dir() and (found := find_matrix_folder(path / name)) is not None:
            return found
    star = [p for p in sorted(path.glob("*Solo.out")) if p.is_dir()]
    return find_matrix_folder(star[0]) if len(star) == 1 else None


def _matrix_in(path: Path) -> Path | None:
    for suffix in _SUFFIXES:
        if (path / f"matrix.mtx{suffix}").is_file():
            return path / f"matrix.mtx{suffix}"
    found = sorted(
        p for p in path.glob("*matrix.mtx*") if p.name.endswith(("matrix.mtx", "matrix.mtx.gz"))
    )
    if len(found) > 1:
        raise InputFileError(
            "E-F07",
            "the folder holds several matrices",
            where=shown(path),
            count=len(found),
            examples=[p.name for p in found],
            fix="pass the path of one of these files",
        )
    return found[0] if found else None


def files_beside(matrix: Path) -> MatrixFiles:
    """Find the features and barcodes that belong to a matrix, by the same prefix or none.

    Parameters
    ----------
    matrix
        ``[prefix]matrix.mtx[.gz]``.

    Returns
    -------
    The files; those that do not exist are ``None``.
    """
    prefix = matrix.name.removesuffix(".gz").removesuffix(".mtx").removesuffix("matrix")

    def first(*stems: str) -> Path | None:
        tries = [
            matrix.parent / f"{start}{stem}.tsv{suffix}"
            for start in dict.fromkeys((prefix, ""))
            for stem in stems
            for suffix in _SUFFIXES
        ]
        return next((p for p in tries if p.is_file()), None)

    return MatrixFiles(matrix, first("features", "genes", "peaks"), first("barcodes"))
