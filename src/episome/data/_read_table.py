"""Tables of text: cells in rows, genes in columns, the name of the cell first."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data._read_kind import GZIP_MAGIC, SEPARATORS
from episome.data._read_names import first_line, name_of
from episome.errors import InputDataError, InputFileError

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data._read_guard import Limits

_HEADER_LIMIT = 64 << 20
_VALUES_AT_ONCE = 4_000_000
_SNIFFED = 5
#: Up to here every whole number is exact as float32.
_EXACT = 1 << 24
_COMMA_NUMBER = re.compile(r"^[+-]?\d+,\d+$")
_THOUSANDS = re.compile(r"^[+-]?\d{1,3},\d{3}$")
_BARCODE = re.compile(r"^(\w+[_:.-])?[ACGT]{10,}([_:.x-].*)?$")
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}(\.\d+)?$")
#: Genes of nearly every table of human or mouse, to see which way round it lies.
_KNOWN_GENES = frozenset(
    ("ACTB", "B2M", "CD3D", "CD3E", "CD4", "CD74", "CD8A", "GAPDH", "LYZ", "MALAT1", "MT-CO1")
    + ("MT-ND1", "NKG7", "PTPRC", "RPL13", "RPLP0", "RPS6", "TMSB4X", "VIM")
)
_FIX = "write cells in rows and genes in columns, with a line of gene names on top"


@dataclass(frozen=True, slots=True)
class _Form:
    """How the lines are written."""

    separator: str
    decimal: str
    genes: tuple[str, ...]
    #: Fields of a line of values, the name of the cell among them.
    width: int
    #: Lines of the header.
    skip: int


def read_table(path: Path, limits: Limits) -> AnnData:
    """Read a table of cells by genes, compressed with gzip or not.

    Parameters
    ----------
    path
        The file: separated by comma, semicolon or tab, with gene names in the first line and the
        name of a cell first in every other.
    limits
        What is allowed.

    Returns
    -------
    CSR float32 (float64 where whole numbers are too large for it).

    Raises
    ------
    InputFileError
        A line is not what the others are (E-F22), the content is too large (E-F09) or cut (E-F01).
    InputDataError
        Genes are in rows (E-D35).
    """
    import anndata

    form = _form(path, limits)
    names: list[str] = []
    blocks: list[sparse.csr_matrix] = []
    try:
        for part in _parts(path, form, limits):
            values = part.to_numpy(dtype=np.float64)
            if np.isnan(values).any():
                raise _odd_line(path, form, limits)
            names += [str(n) for n in part.index]
            blocks.append(sparse.csr_matrix(values))
            taken = sum(16 * b.nnz for b in blocks)
            limits.check_size(name_of(path), taken, fix="write it as h5ad on a machine with more")
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError, csv.Error) as error:
        if isinstance(error, InputFileError):
            raise
        raise _odd_line(path, form, limits, error) from error
    matrix = _joined(blocks, len(form.genes))
    _check_way_round(name_of(path), names, form.genes)
    return anndata.AnnData(
        matrix,
        obs=pd.DataFrame(index=pd.Index(names, dtype=object)),
        var=pd.DataFrame(index=pd.Index(list(form.genes), dtype=object)),
    )


def _joined(blocks: list[sparse.csr_matrix], n_genes: int) -> sparse.csr_matrix:
    if not blocks:
        return sparse.csr_matrix((0, n_genes), dtype=np.float32)
    matrix = sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
    large = matrix.nnz and float(np.abs(matrix.data).max()) > _EXACT
    return matrix if large else matrix.astype(np.float32)


def _parts(path: Path, form: _Form, limits: Limits) -> Iterator[pd.DataFrame]:
    rows = int(np.clip(_VALUES_AT_ONCE // form.width, 1, 100_000))
    with _text(path, limits) as handle:
        for _ in range(form.skip):
            handle.readline()
        reader = pd.read_csv(
            handle,
            sep=form.separator,
            decimal=form.decimal,
            header=None,
            names=range(form.width),
            index_col=False,
            dtype={0: str, **dict.fromkeys(range(1, form.width), np.float64)},
            keep_default_na=False,
            na_values=[],
            skip_blank_lines=True,
            chunksize=rows,
            on_bad_lines="error",
        )
        try:
            for part in reader:
                yield part.set_index(0)
        except pd.errors.EmptyDataError:
            return


# -- the form of the lines -----------------------------------------------------------------------


def _form(path: Path, limits: Limits) -> _Form:
    with _text(path, limits) as handle:
        lines: list[str] = []
        skip = 0
        while len(lines) < _SNIFFED and (line := _line(path, handle, skip + 1)):
            if line.strip():
                lines.append(line)
            if len(lines) <= 1:
                skip += 1
    separator = _separator(path, lines, skip)
    rows = [next(csv.reader([line], delimiter=separator)) for line in lines]
    header = [field.strip() for field in rows[0]]
    width = len(rows[1]) if len(rows) > 1 else len(header)
    if len(header) not in (width, width - 1):
        raise _wrong(
            path, skip + 1, f"has {width} fields, the header has {len(header)}", "line is ragged"
        )
    genes = header[1:] if len(header) == width else header
    if genes and all(_is_number(g) for g in genes):
        raise _wrong(path, skip, "holds numbers, no gene names", "the header is missing")
    decimal = _decimal(path, rows[1:], separator, skip)
    return _Form(separator, decimal, tuple(genes), width, skip)


def _line(path: Path, handle: io.TextIOWrapper, number: int) -> str:
    try:
        line = handle.readline(_HEADER_LIMIT)
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except EOFError as error:
        raise _cut(path, error) from error
    if len(line) >= _HEADER_LIMIT:
        raise _wrong(path, number, "has no end", "this is no table")
    return line


def _separator(path: Path, lines: list[str], skip: int) -> str:
    """Find the separator that gives the same number of fields in every line, the most of them."""
    counts = {}
    for separator in SEPARATORS:
        found = [len(next(csv.reader([line], delimiter=separator), [])) for line in lines]
        head, rest = found[0], set(found[1:]) or {found[0]}
        if len(rest) == 1 and max(rest) > 1 and head in (max(rest), max(rest) - 1):
            counts[separator] = max(rest)
    if counts:
        return max(counts, key=lambda s: counts[s])
    best = max(SEPARATORS, key=lambda s: lines[0].count(s))
    if not lines[0].count(best):
        raise _wrong(path, skip, "holds no comma, semicolon or tab", "the separator is another")
    return best


def _decimal(path: Path, rows: list[list[str]], separator: str, skip: int) -> str:
    """Whether numbers are written with a comma."""
    commas = [f.strip() for row in rows for f in row[1:] if _COMMA_NUMBER.match(f.strip())]
    if not commas:
        return "."
    if all(_THOUSANDS.match(f) for f in commas):
        raise _wrong(
            path,
            skip + 1,
            f"holds {commas[0]!r}",
            "the comma may part thousands or decimals",
            fix="write numbers with a point and without a sign for thousands",
        )
    return ","


def _is_number(field: str) -> bool:
    try:
        float(field.replace(",", "."))
    except ValueError:
        return False
    return True


# -- what is wrong -------------------------------------------------------------------------------


def _odd_line(
    path: Path, form: _Form, limits: Limits, cause: Exception | None = None
) -> InputFileError:
    """Find the first line that is not like the others; slow, and only on the way to an error."""
    if isinstance(cause, UnicodeDecodeError):
        return _not_utf8(path)
    with _text(path, limits) as handle:
        for _ in range(form.skip):
            handle.readline()
        reader = csv.reader(handle, delimiter=form.separator, strict=True)
        try:
            for row in reader:
                number = form.skip + reader.line_num
                if row and (problem := _problem(row, form)):
                    return _wrong(path, number, *problem)
        except csv.Error as error:
            number = form.skip + reader.line_num
            return _wrong(path, number, f"cannot be read: {first_line(error)}", "check its quotes")
        except UnicodeDecodeError:
            return _not_utf8(path)
    return InputFileError(
        "E-F22",
        "the table cannot be read",
        where=name_of(path),
        why=first_line(cause) if cause else None,
        fix=_FIX,
    )


def _problem(row: list[str], form: _Form) -> tuple[str, str] | None:
    if len(row) != form.width:
        return f"has {len(row)} fields, the others have {form.width}", "the line is ragged"
    for gene, field in zip(form.genes, row[1:], strict=True):
        text = field.strip().replace(form.decimal, ".")
        if not text:
            return f"holds nothing for {gene!r}", "an empty field is not zero"
        if not _is_number(text) or text.lower().lstrip("+-") == "nan":
            return f"holds {field[:40]!r} for {gene!r}", "it is no number"
    return None


def _wrong(path: Path, number: int, what: str, why: str, fix: str = _FIX) -> InputFileError:
    return InputFileError(
        "E-F22",
        f"line {number} {what}",
        where=name_of(path),
        why=why,
        fix=fix,
        details={"line": number},
    )


def _not_utf8(path: Path) -> InputFileError:
    """Name the first line that is no UTF-8."""
    number = 1
    with _bytes(path) as handle:
        for number, line in enumerate(handle, 1):  # noqa: B007 - for the message
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                break
    return _wrong(
        path,
        number,
        "is not UTF-8",
        "names would be read as others",
        fix=f"run `iconv -f latin1 -t utf-8 {name_of(path)}`, or save it as UTF-8",
    )


def _cut(path: Path, error: Exception) -> InputFileError:
    return InputFileError(
        "E-F01",
        "the file was cut short or damaged",
        where=name_of(path),
        why=first_line(error),
        fix="download or write the file again",
    )


def _check_way_round(name: str, cells: list[str], genes: Iterable[str]) -> None:
    """Refuse genes in rows; a table of counts of an archive is often written like this."""
    genes = list(genes)
    in_rows, in_columns = _gene_share(cells), _gene_share(genes)
    barcodes = sum(bool(_BARCODE.match(g)) for g in genes) > len(genes) / 2
    if in_rows > in_columns or (barcodes and not any(_BARCODE.match(c) for c in cells)):
        raise InputDataError(
            "E-D35",
            "genes are in rows and cells in columns",
            where=name,
            examples=cells[:3],
            why="cells are read from rows",
            fix=f"write it transposed: pandas.read_csv({name!r}, index_col=0).T.to_csv(...)",
        )


def _gene_share(names: list[str]) -> float:
    """How much a list looks like genes: the share of Ensembl ids, or known symbols in it."""
    if not names:
        return 0.0
    ensembl = sum(bool(_ENSEMBL.match(n)) for n in names) / len(names)
    known = len({n.upper() for n in names} & _KNOWN_GENES)
    return ensembl if ensembl > 0.5 else (known / len(_KNOWN_GENES) if known >= 2 else 0.0)


# -- bytes ---------------------------------------------------------------------------------------


class _Counted(io.RawIOBase):
    """Bytes of a handle; stops where they become far more than the file stores."""

    def __init__(self, handle: BinaryIO, path: Path, limits: Limits) -> None:
        self._handle, self._path, self._limits = handle, path, limits
        self._stored, self._read = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        self._limits.check_ratio(name_of(self._path), self._read, self._stored)
        return len(data)


@contextmanager
def _bytes(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as handle:
        packed = handle.read(2) == GZIP_MAGIC
        handle.seek(0)
        if packed:
            with gzip.open(handle, "rb") as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield handle


@contextmanager
def _text(path: Path, limits: Limits) -> Iterator[io.TextIOWrapper]:
    with _bytes(path) as handle:
        counted = io.BufferedReader(_Counted(handle, path, limits), 1 << 16)
        with io.TextIOWrapper(counted, encoding="utf-8-sig", newline="") as text:
            yield text
