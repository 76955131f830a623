"""Open cells, by what is in a file or folder and not by its name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from episome.data._read_folders import MatrixFiles, files_beside, find_matrix_folder
from episome.data._read_guard import Limits, reading, unchanged
from episome.data._read_kind import FileKind, check_readable, kind_of
from episome.data._read_names import name_of
from episome.errors import InputDataError, InputFileError, MissingDependencyError
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from scipy import sparse

    from episome.data._read_tree import Tree

logger = get_logger(__name__)

RNA_NAMES = ("rna", "gex", "RNA", "GEX", "gene_expression")


def read_cells(
    path: str | Path, *, backed: bool = False, max_memory: int | None = None, trust: bool = False
) -> AnnData:
    """Read the expression of cells from a file or folder of any kind that is known.

    The kind is found in the content: h5ad, zarr (version 2 and 3), the HDF5 files and matrix
    folders of 10x, outputs of STARsolo and Cell Ranger, h5mu, loom, and tables of text. Of several
    modalities the RNA is read, and what is left out is said in the log.

    Parameters
    ----------
    path
        File or folder.
    backed
        Leave the matrix of h5ad and zarr on disk and read rows when they are needed; other kinds
        are read into memory.
    max_memory
        Bytes that the content may take, checked before anything is allocated; default the memory
        that this process may use.
    trust
        Follow links to other files, and lift the limits that a file made to do harm would meet
        (number and depth of objects, compression). Only for files that you made.

    Returns
    -------
    The AnnData object. The file is never written to.

    Raises
    ------
    InputFileError
        The path is missing (E-F07), remote (E-F18), empty (E-F04), of another kind (E-F02 to
        E-F06), cut or broken (E-F01, E-F20), too large (E-F09), links to other files (E-F11),
        needs a filter (E-F12) or a newer anndata (E-F13), is locked (E-F15), changes (E-F16), or
        a line is wrong (E-F22).
    InputDataError
        A sparse matrix points outside itself (E-D23), or a table holds genes in rows (E-D35).
    MissingDependencyError
        The kind needs a package that is not installed (E-P02).

    Examples
    --------
    >>> adata = read_cells("filtered_feature_bc_matrix.h5")  # doctest: +SKIP
    """
    found = read_any(path, backed=backed, max_memory=max_memory, trust=trust)
    if not hasattr(found, "mod"):
        return found
    modalities: Mapping[str, AnnData] = found.mod
    name = rna_among(list(modalities))
    if name is None:
        raise InputFileError(
            "E-F06",
            "the file holds several modalities, and none is called rna",
            where=name_of(Path(path)),
            why=f"they are {', '.join(modalities)}",
            fix="episome.data.read_any(path).mod[name] reads one of them",
        )
    left = [f"{n} ({part.n_vars:,} features)" for n, part in modalities.items() if n != name]
    if left:
        logger.info("%s: reading %s, leaving out %s", name_of(Path(path)), name, ", ".join(left))
    return modalities[name]


def rna_among(names: Sequence[str], usual: str | None = None) -> str | None:
    """Return which of some modalities is the RNA; ``None`` where that is not clear.

    Parameters
    ----------
    names
        Their names.
    usual
        Name that is taken where it is there.

    Examples
    --------
    >>> rna_among(["prot", "gex"])
    'gex'
    """
    known = [n for n in (usual, *RNA_NAMES) if n in names]
    found = known if known or len(names) != 1 else names
    return found[0] if found else None


def read_any(
    path: str | Path, *, backed: bool = False, max_memory: int | None = None, trust: bool = False
) -> AnnData | MuData:
    """Read cells with all their modalities from a file or folder of any kind that is known.

    Parameters
    ----------
    path, backed, max_memory, trust
        As for :func:`read_cells`.

    Returns
    -------
    MuData for ``h5mu`` and where 10x counted several kinds of features (modalities ``"rna"``,
    ``"prot"``, ``"atac"`` for gene expression, antibodies and peaks); AnnData otherwise.

    Raises
    ------
    InputFileError, InputDataError, MissingDependencyError
        As :func:`read_cells`.

    Examples
    --------
    >>> mdata = read_any("multiome.h5mu")  # doctest: +SKIP
    """
    path = check_readable(path)
    limits = Limits.of(max_memory, trust=trust)
    kind = kind_of(path)
    if kind in {FileKind.CORPUS, FileKind.SOMA}:
        raise InputFileError(
            "E-F06",
            f"the folder is a {kind.value}, whose cells are read in blocks",
            where=name_of(path),
            fix="`episome train` and `episome annotate` read it so; in Python "
            "episome.data.open_source(path)",
        )
    files = _matrix_files(path, kind)
    stamped = _files_of(path, files)
    if kind is FileKind.HDF5:
        from episome.data._read_hdf5 import open_hdf5

        # A program that still writes may change the file up to the end of its lock.
        with open_hdf5(path if files is None else files.matrix):
            pass
    with unchanged(*stamped, name=name_of(path)), _quiet():
        if files is not None and kind is FileKind.MTX:
            found = _mtx(files, limits)
        elif kind is FileKind.TABLE:
            from episome.data._read_table import read_table

            found = read_table(path, limits)
        elif kind is FileKind.ZARR:
            from episome.data._read_zarr import read_zarr

            found = read_zarr(path, limits, backed=backed)
        else:
            found = _hdf5(path if files is None else files.matrix, limits, backed=backed)
        _check_structures(found, name_of(path))
    return found


def _matrix_files(path: Path, kind: FileKind) -> MatrixFiles | None:
    if path.is_dir() and kind is not FileKind.ZARR:
        files = find_matrix_folder(path)
        if files is not None and files.matrix.parent != path:
            logger.info("%s: reading %s", name_of(path), files.matrix.relative_to(path))
        return files
    return files_beside(path) if kind is FileKind.MTX else None


def _files_of(path: Path, files: MatrixFiles | None) -> list[Path]:
    if files is not None:
        return [p for p in (files.matrix, files.features, files.barcodes) if p is not None]
    if not path.is_dir():
        return [path]
    return [path, *(path / n for n in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata"))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what libraries warn of and we say once, or what a reader cannot change.

    ``mudata.set_options`` would do for some of it, and writes to the root logger.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*very old version of AnnData.*")
        warnings.filterwarnings("ignore", message=".*without encoding metadata.*")
        warnings.filterwarnings("ignore", message="Moving element from .uns.*")
        warnings.filterwarnings("ignore", message=".*was not created by muon/mudata.*")
        warnings.filterwarnings("ignore", category=FutureWarning, module="mudata")
        # Said as E-L15 and E-G11 by whoever uses the names.
        warnings.filterwarnings("ignore", message=".*names are not unique.*")
        warnings.filterwarnings("ignore", message="Cannot join columns with the same name")
        yield


def _mtx(files: MatrixFiles, limits: Limits) -> AnnData | MuData:
    from episome.data._read_tenx import as_mudata, read_mtx, split_features

    adata = read_mtx(files, limits)
    parts = split_features(adata)
    return adata if len(parts) == 1 else as_mudata(parts)


# -- HDF5 ----------------------------------------------------------------------------------------


def _hdf5(path: Path, limits: Limits, *, backed: bool) -> AnnData | MuData:
    from episome.data._read_hdf5 import layout_of, open_hdf5, walk

    with open_hdf5(path) as file:
        tree = walk(file, name_of(path), limits)
        with reading(name_of(path), "HDF5"):
            kind = layout_of(file, name_of(path))
            old = "encoding-type" not in file.attrs
    if kind is FileKind.H5AD:
        return _h5ad(path, tree, limits, backed=backed, old=old)
    return _READERS[kind](path, tree, limits)


def _h5ad(path: Path, tree: Tree, limits: Limits, *, backed: bool, old: bool) -> AnnData:
    import anndata

    from episome.data._read_hdf5 import check_matrices_on_disk
    from episome.data._read_tree import check_tree

    on_disk = ("X", "raw/X", "raw.X") if backed else ()
    check_tree(tree, name_of(path), limits, on_disk=on_disk, can_back=not backed)
    if old:
        logger.info(
            "%s: written by an anndata before 0.8; write it again to update it", name_of(path)
        )
    if backed:
        check_matrices_on_disk(path, tree, on_disk)
    with reading(name_of(path), "h5ad"):
        return anndata.read_h5ad(path, backed="r" if backed else None)


def _tenx(path: Path, tree: Tree, limits: Limits) -> AnnData | MuData:
    from episome.data._read_tenx import as_mudata, read_tenx_h5, split_features
    from episome.data._read_tree import check_tree

    check_tree(tree, name_of(path), limits)
    adata = read_tenx_h5(path)
    parts = split_features(adata)
    return adata if len(parts) == 1 else as_mudata(parts)


def _h5mu(path: Path, tree: Tree, limits: Limits) -> MuData:
    import mudata

    from episome.data._read_tree import check_tree

    check_tree(tree, name_of(path), limits)
    with reading(name_of(path), "h5mu"):
        return mudata.read_h5mu(path)


def _loom(path: Path, tree: Tree, limits: Limits) -> AnnData:
    from episome.data._read_tree import check_tree

    # Loom stores zeros too; they are not kept.
    check_tree(tree, name_of(path), limits, on_disk=("matrix", "layers"))
    if find_spec("loompy") is None:
        raise MissingDependencyError(
            "E-P02",
            "loom files are read by loompy, which is not installed",
            where=name_of(path),
            fix='pip install "episome[loom]"',
        )
    import anndata

    with reading(name_of(path), "loom"):
        return anndata.io.read_loom(os.fspath(path), validate=False)


_READERS = {FileKind.TENX_H5: _tenx, FileKind.H5MU: _h5mu, FileKind.LOOM: _loom}


# -- afterwards ----------------------------------------------------------------------------------


def _check_structures(found: AnnData | MuData, name: str) -> None:
    """Refuse sparse matrices that point outside themselves, before anyone computes with them."""
    parts = found.mod if hasattr(found, "mod") else {"": found}
    for modality, adata in parts.items():
        where = f"{name}, {modality}" if modality else name
        for slot, matrix in _matrices(adata):
            _check_structure(matrix, f"{where}, {slot}")


def _check_structure(matrix: sparse.spmatrix, where: str) -> None:
    from episome.data._matrix import check_structure
    from episome.data._read_tree import check_pointers

    try:
        check_structure(matrix)
    except InputDataError as error:
        found = error.problems[0]
        raise InputDataError(
            found.code, found.what, where=where, why=found.why, fix=found.fix
        ) from error
    if matrix.format in {"csr", "csc"}:
        # scipy allows values after the last row; a file that has them lost its pointers.
        check_pointers(matrix.indptr, len(matrix.indices), where)


def _matrices(adata: AnnData) -> Iterator[tuple[str, sparse.spmatrix]]:
    """Every sparse matrix in memory that an object holds."""
    from scipy import sparse

    raw = adata.raw
    slots = {"X": None if adata.isbacked else adata.X}
    if raw is not None and not adata.isbacked:
        slots["raw.X"] = raw.X
    for key in ("layers", "obsm", "varm", "obsp", "varp"):
        mapping = getattr(adata, key)
        slots |= {f"{key}[{k!r}]": mapping[k] for k in mapping if k is not None}
    stack: list[tuple[str, object]] = [*slots.items(), ("uns", adata.uns)]
    while stack:
        slot, value = stack.pop()
        if sparse.issparse(value):
            yield slot, value
        elif isinstance(value, Mapping):
            stack += [(f"{slot}[{k!r}]", v) for k, v in value.items()]
