"""Matrix market folders of 10x, STARsolo and others, and what their features are."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pandas as pd
from scipy import io as scipy_io
from scipy import sparse

from episome.data._read_guard import MAX_RATIO, Limits, reading
from episome.data._read_kind import GZIP_MAGIC
from episome.data._read_names import first_line, name_of, shown
from episome.errors import InputFileError
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from episome.data._read_folders import MatrixFiles

logger = get_logger(__name__)

RNA = "rna"
#: What 10x calls its kinds of features -> the names of modalities that muon uses.
MODALITIES = {"Gene Expression": RNA, "Antibody Capture": "prot", "Peaks": "atac"}
_LEGACY_COLUMNS = ("gene_ids", "gene_symbols")
_COLUMNS = (*_LEGACY_COLUMNS, "feature_types", "chrom", "chromStart", "chromEnd")
#: Shortest line of an entry: two numbers and the end.
_ENTRY_BYTES = 4
#: Bytes of an entry while it is turned: row, column and value, twice.
_ENTRY_MEMORY = 32


def read_mtx(files: MatrixFiles, limits: Limits) -> AnnData:
    """Read a matrix of features by cells with its lists of features and barcodes.

    Parameters
    ----------
    files
        The three files, each compressed with gzip or not.
    limits
        What is allowed.

    Returns
    -------
    Cells by features: CSR float32, ``var`` indexed by symbol with ``gene_ids`` and
    ``feature_types`` as scanpy has them.

    Raises
    ------
    InputFileError
        A list is missing (E-F07), a line is wrong (E-F22), entries are missing (E-F01), the
        declared size is too large (E-F09).
    """
    import anndata

    features = _required(files.features, "features.tsv", files.matrix)
    barcodes = _required(files.barcodes, "barcodes.tsv", files.matrix)
    matrix = _matrix(files.matrix, limits)
    var, obs_names = _features(features), _barcodes(barcodes)
    if matrix.shape == (len(obs_names), len(var)) and matrix.shape[0] != matrix.shape[1]:
        logger.info("%s: cells are in rows, as no 10x file has them", name_of(files.matrix))
    elif matrix.shape != (len(var), len(obs_names)):
        raise InputFileError(
            "E-F22",
            "the matrix does not fit its lists",
            where=name_of(files.matrix),
            why=f"it has {matrix.shape[0]:,} rows and {matrix.shape[1]:,} columns, for "
            f"{len(var):,} features and {len(obs_names):,} barcodes",
            fix="take all three files from the same run",
        )
    else:
        matrix = matrix.T
    turned = sparse.csr_matrix(matrix, dtype=np.float32)
    return anndata.AnnData(turned, obs=pd.DataFrame(index=obs_names), var=var)


def _required(path: Path | None, what: str, matrix: Path) -> Path:
    if path is None:
        raise InputFileError(
            "E-F07",
            f"there is no {what} beside the matrix",
            where=shown(matrix),
            why="a matrix alone names neither genes nor cells",
            fix=f"put {what} or {what}.gz into the same folder, with the same prefix",
        )
    return path


def _matrix(path: Path, limits: Limits) -> sparse.coo_matrix:
    with _opened(path) as (handle, packed):
        shape, n = _header(path, handle)
    stored = path.stat().st_size
    limits.check_size(
        name_of(path), n * _ENTRY_MEMORY + 8 * sum(shape), fix="use a machine with more memory"
    )
    if n * _ENTRY_BYTES > stored * (MAX_RATIO if packed else 1) and not (packed and limits.trust):
        raise InputFileError(
            "E-F01",
            "the file was cut short",
            where=name_of(path),
            why=f"it declares {n:,} entries, which {stored:,} bytes cannot hold",
            fix="download or write the file again",
        )
    try:
        with _opened(path) as (handle, _), warnings.catch_warnings():
            # Matrix or array: from scipy 1.18 it wants to be told, before 1.15 it cannot be.
            warnings.simplefilter("ignore", DeprecationWarning)
            return scipy_io.mmread(handle)
    except EOFError as error:
        raise _cut(path, error) from error
    except (ValueError, OverflowError) as error:
        raise _wrong_line(path, error) from error
    except OSError as error:
        raise _cut(path, error) from error


def _header(path: Path, handle: BinaryIO) -> tuple[tuple[int, int], int]:
    """Sizes that the file declares; the lines before them are counted for the message."""
    try:
        first = handle.readline(1024).split()
        number = 1
        line = b"%"
        while line.startswith(b"%") or not line.strip():
            line, number = handle.readline(1 << 16), number + 1
            if not line:
                break
        rows, columns, n = (int(w) for w in line.split())
    except EOFError as error:
        raise _cut(path, error) from error
    except (ValueError, OSError) as error:
        raise InputFileError(
            "E-F22",
            f"line {number} does not declare rows, columns and entries",
            where=name_of(path),
            fix="use the matrix.mtx of the program that counted",
        ) from error
    if [w.lower() for w in first[1:3]] != [b"matrix", b"coordinate"] or min(rows, columns, n) < 0:
        raise InputFileError(
            "E-F22",
            "line 1 declares no sparse matrix",
            where=name_of(path),
            why="it does not begin with `%%MatrixMarket matrix coordinate`",
            fix="use the matrix.mtx of the program that counted",
        )
    return (rows, columns), n


def _cut(path: Path, error: Exception) -> InputFileError:
    return InputFileError(
        "E-F01",
        "the file was cut short or damaged",
        where=name_of(path),
        why=first_line(error),
        fix="download or write the file again",
    )


def _wrong_line(path: Path, error: Exception) -> InputFileError:
    text = first_line(error)
    if "runcated" in text:
        return _cut(path, error)
    return InputFileError(
        "E-F22",
        "a line of the matrix is wrong",
        where=name_of(path),
        why=text,
        fix="use the matrix.mtx of the program that counted",
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    with path.open("rb") as handle:
        packed = handle.read(2) == GZIP_MAGIC
        handle.seek(0)
        if not packed:
            yield handle, False
            return
        with gzip.open(handle, "rb") as unpacked:
            yield unpacked, True  # type: ignore[misc]


def _lines(path: Path) -> list[list[str]]:
    """Fields of every line, split at tabs; nothing is quoted in these lists."""
    number = 0
    try:
        with _opened(path) as (handle, _):
            out = []
            for number, line in enumerate(handle, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                out.append([field.strip() for field in text.split("\t")])
    except UnicodeDecodeError as error:
        raise InputFileError(
            "E-F22",
            f"line {number} is not UTF-8",
            where=name_of(path),
            fix="run `iconv -f latin1 -t utf-8` on it",
        ) from error
    except (EOFError, OSError) as error:
        raise _cut(path, error) from error
    while out and out[-1] == [""]:
        out.pop()
    return out


def _features(path: Path) -> pd.DataFrame:
    rows = _lines(path)
    width = len(rows[0]) if rows else 2
    for number, row in enumerate(rows, 1):
        if len(row) != width or not row[0]:
            raise InputFileError(
                "E-F22",
                f"line {number} has {len(row)} fields, the first line has {width}"
                if len(row) != width
                else f"line {number} has no name",
                where=name_of(path),
                fix="separate id, symbol and type by tabs in every line",
            )
    columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=False)) if rows else {}
    ids = list(columns.get("gene_ids", ()))
    names = columns.pop("gene_symbols", None) or tuple(ids)
    var = pd.DataFrame(columns, index=pd.Index(list(names), dtype=object))
    return var if rows else pd.DataFrame({"gene_ids": []}, index=pd.Index([], dtype=object))


def _barcodes(path: Path) -> pd.Index:
    rows = _lines(path)
    for number, row in enumerate(rows, 1):
        if not row[0]:
            raise InputFileError(
                "E-F22",
                f"line {number} has no barcode",
                where=name_of(path),
                fix="remove the line",
            )
    return pd.Index([row[0] for row in rows], dtype=object)


def read_tenx_h5(path: Path) -> AnnData:
    """Read the HDF5 file of Cell Ranger, version 2 or 3, with all kinds of its features.

    Parameters
    ----------
    path
        The file; it was looked at before.

    Raises
    ------
    InputFileError
        It holds several genomes (E-F06), or cannot be read (E-F01).
    """
    import h5py
    import scanpy as sc

    with reading(name_of(path), "10x h5"):
        with h5py.File(path, "r") as file:
            genomes = sorted(file) if "matrix" not in file else []
        if len(genomes) > 1:
            raise InputFileError(
                "E-F06",
                "the file holds several genomes",
                where=name_of(path),
                count=len(genomes),
                examples=genomes,
                fix=f"scanpy.read_10x_h5({name_of(path)!r}, genome=...) reads one of them",
            )
        return sc.read_10x_h5(path, gex_only=False)


# -- kinds of features ---------------------------------------------------------------------------


def split_features(adata: AnnData) -> dict[str, AnnData]:
    """Split an object by the kinds of its features.

    Parameters
    ----------
    adata
        With ``var["feature_types"]`` where there are several kinds.

    Returns
    -------
    Name of the modality -> its features, in the order of 10x; one named ``"rna"`` where the kinds
    are not said.
    """
    if "feature_types" not in adata.var:
        return {RNA: adata}
    kinds = adata.var["feature_types"].astype(str).to_numpy()
    found = dict.fromkeys(kinds)
    if len(found) <= 1:
        return {modality(k): adata for k in found} or {RNA: adata}
    order = sorted(found, key=lambda k: [*MODALITIES, k].index(k))
    return {modality(k): adata[:, kinds == k].copy() for k in order}


def modality(kind: str) -> str:
    """Name of the modality of a 10x kind of features."""
    return MODALITIES.get(kind, kind.strip().lower().replace(" ", "_"))


def as_mudata(parts: dict[str, AnnData]) -> MuData:
    """Join modalities of the same cells."""
    import mudata

    return mudata.MuData(parts)
