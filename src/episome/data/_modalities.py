"""Cells of several modalities: paired by their names, and what kind of features each one has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd

from episome.data._gene_names import look_like_genes
from episome.data._keys import FEATURE_KINDS, GENE_EXPRESSION
from episome.data._query import modalities_of
from episome.data._source import AnnDataSource, CellSource, repeated_names
from episome.errors import InputDataError, Problem, UsageError, raise_problems
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data._matrix import Rows

logger = get_logger(__name__)

ModalityKind: TypeAlias = Literal["rna", "protein", "atac", "other"]

#: Columns in which 10x and others say what a feature is.
_TYPE_COLUMNS = ("feature_types", "feature_type")
_TYPES: dict[str, ModalityKind] = {
    **dict.fromkeys(FEATURE_KINDS, "other"),
    GENE_EXPRESSION: "rna",
    "Antibody Capture": "protein",
    "Peaks": "atac",
}
#: Names of modalities in MuData made of one AnnData object.
_SHORT = {"rna": "rna", "protein": "prot", "atac": "atac"}
#: Words in the name of a modality, in the order in which they are tried.
_WORDS: dict[ModalityKind, frozenset[str]] = {
    "other": frozenset(
        {"hto", "hash", "hashing", "hashtag", "hashtags", "cmo", "crispr", "guide", "guides"}
        | {"gdo", "sgrna", "grna", "airr", "tcr", "bcr", "vdj"}
    ),
    "protein": frozenset(
        {"prot", "protein", "proteins", "adt", "ab", "antibody", "antibodies", "cite", "surface"}
    ),
    "atac": frozenset({"atac", "peak", "peaks", "chromatin", "accessibility"}),
    "rna": frozenset({"rna", "gex", "gene", "genes", "mrna", "expression", "transcriptome"}),
}
_PEAK = re.compile(r"^\w[\w.]*[:_-]\d+[_-]\d+$")


# -- pairing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairedCells:
    """Cells that every chosen modality has, paired by name.

    Parameters
    ----------
    obs_names
        Names of the cells, in the order of the first modality.
    sources
        Every modality's values of these cells, in this order.
    features
        Names of the features of every modality, as they are in its ``var``.
    notes
        Lines of the input report: what was left out, put in order or not read.
    """

    obs_names: pd.Index
    sources: dict[str, CellSource]
    features: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs_names)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all features with their modality before them, such as ``"prot:CD4"``."""
        return tuple(f"{m}:{n}" for m, names in self.features.items() for n in names)


class RowsOf:
    """Rows of another source in an order of their own; nothing is copied.

    Parameters
    ----------
    source
        What is read.
    rows
        Its rows, int64 of shape (n_obs,).
    """

    def __init__(self, source: AnnDataSource, rows: NDArray[np.int64]) -> None:
        self._source, self._rows = source, np.asarray(rows, dtype=np.int64)
        self._obs_names = source.obs_names[self._rows]

    @property
    def n_obs(self) -> int:
        return len(self._rows)

    @property
    def n_vars(self) -> int:
        return self._source.n_vars

    @property
    def dtype(self) -> str:
        """Type of the stored values."""
        return self._source.dtype

    @property
    def obs_names(self) -> pd.Index:
        return self._obs_names

    @property
    def var(self) -> pd.DataFrame:
        return self._source.var

    @property
    def where(self) -> str:
        return self._source.where

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of the cell table."""
        return self._source.obs_columns

    def obs_column(self, key: str) -> pd.Series:
        """Return one column of the cell table; E-U04 when it is missing."""
        return self._source.obs_column(key).iloc[self._rows]

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the expression of ``rows`` as CSR float32, in the order asked for."""
        return self._source.read(self._rows[rows])


def pair_modalities(
    mdata: MuData | Mapping[str, AnnData],
    modalities: Sequence[str] | None = None,
    *,
    layers: Mapping[str, str | None] | None = None,
    name: str = "mdata",
) -> PairedCells:
    """Pair the cells of several modalities by name, never by position.

    Everything is read from the modalities themselves. The tables that MuData keeps of them
    (``obs``, ``obsm``, ``obsmap``) are as old as the last ``mdata.update()``, and are not used.

    Parameters
    ----------
    mdata
        MuData, or objects by the name of their modality; never modified.
    modalities
        Names of those to pair; default all. The first gives the order of the cells.
    layers
        Layer to read by modality; default ``X``.
    name
        How messages name the object.

    Returns
    -------
    :class:`PairedCells`: the cells that are in all chosen modalities. No matrix is copied.

    Raises
    ------
    UsageError
        The object holds no modalities, or other things than cells (E-U07), or not the named ones
        (E-U60).
    InputDataError
        No cell is in all modalities (E-D45), names of cells repeat within one of several
        modalities (E-L15), or a modality has no ``X`` (E-D27).

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> rna = anndata.AnnData(np.eye(3, dtype="float32"), pd.DataFrame(index=["a", "b", "c"]))
    >>> prot = anndata.AnnData(np.eye(2, dtype="float32"), pd.DataFrame(index=["c", "a"]))
    >>> pair_modalities({"rna": rna, "prot": prot}).obs_names.to_list()
    ['a', 'c']
    """
    held = parts_of(mdata, name=name)
    parts = {m: held[m] for m in _chosen(mdata, list(held), modalities, name)}
    obs_names, rows, notes = match_cells({m: p.obs_names for m, p in parts.items()}, name)
    sources: dict[str, CellSource] = {}
    for m, part in parts.items():
        source = AnnDataSource(part, layer=(layers or {}).get(m), name=f"{name}[{m!r}]")
        sources[m] = RowsOf(source, rows[m]) if m in rows else source
    features = {m: tuple(map(str, part.var_names)) for m, part in parts.items()}
    notes = (*stale_tables(mdata, name), *notes, *shared_names(features, name))
    for note in notes:
        logger.info("%s", note)
    return PairedCells(obs_names, sources, features, notes)


def holds_modalities(data: object) -> bool:
    """Whether an object is MuData, or objects by the name of their modality."""
    return isinstance(getattr(data, "mod", data), Mapping)


def parts_of(data: MuData | Mapping[str, AnnData], *, name: str = "mdata") -> dict[str, AnnData]:
    """Return the modalities of an object by their names.

    Raises
    ------
    UsageError
        E-U07, with the line that makes MuData of what was passed.
    """
    if not holds_modalities(data):
        raise UsageError(
            "E-U07",
            f"modalities cannot be read from a {type(data).__name__}",
            why="MuData, or objects by the name of their modality, are expected",
            fix=_conversion(data),
        )
    held = dict(getattr(data, "mod", data))
    wrong = [f"{m} is a {type(p).__name__}" for m, p in held.items() if not _is_cells(p)]
    if wrong or not held:
        raise UsageError(
            "E-U07",
            "modalities that are no objects of cells" if wrong else "there are no modalities",
            where=name,
            count=len(wrong) if wrong else None,
            total=len(held) if wrong else None,
            examples=wrong,
            fix='mudata.MuData({"rna": adata, "prot": proteins})',
        )
    return held


def _is_cells(part: object) -> bool:
    return not modalities_of(part) and hasattr(part, "obs_names") and hasattr(part, "layers")


def _conversion(data: object) -> str:
    """Return the line that makes MuData of what was passed."""
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return "episome.data.read_any(path)"
    if _is_cells(data):
        for line in (_split_by_type(data), _split_off_table(data)):
            if line:
                return line
    return 'mudata.MuData({"rna": adata, "prot": proteins})'


def _split_by_type(adata: AnnData) -> str:
    """Return the line for features of several kinds in one matrix, as 10x writes them."""
    for column in _TYPE_COLUMNS:
        types = sorted(set(adata.var[column].astype(str))) if column in adata.var else []
        if len(types) > 1 and GENE_EXPRESSION in types:
            parts = [
                f'"{_SHORT.get(_TYPES.get(t, "other"), t)}": '
                f'adata[:, adata.var["{column}"] == "{t}"].copy()'
                for t in sorted(types, key=lambda t: t != GENE_EXPRESSION)
            ]
            return f"mudata.MuData({{{', '.join(parts)}}})"
    return ""


def _split_off_table(adata: AnnData) -> str:
    """Return the line for a second modality that lies in ``obsm``."""
    for key in adata.obsm:
        kind = _kind_by_word(str(key))
        if kind in {"protein", "atac"}:
            second = f'anndata.AnnData(adata.obsm["{key}"], obs=adata.obs[[]])'
            return f'mudata.MuData({{"rna": adata, "{_SHORT[kind]}": {second}}})'
    return ""


def _chosen(
    mdata: object, held: list[str], wanted: Sequence[str] | None, name: str
) -> tuple[str, ...]:
    """Return the names of the wanted modalities, each once; refuse those that are not held."""
    names = held if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    where = f"{name}.mod" if hasattr(mdata, "mod") else name
    if not names:
        raise UsageError(
            "E-U60", "no modality is named", why=_listed(held), fix=f"modalities={held!r}"
        )
    missing = [m for m in names if m not in held]
    closest = {m: _near(m, [h for h in held if h not in names]) for m in missing}
    fixed = [closest.get(m, m) for m in names]
    fix = f"modalities={fixed!r}" if all(fixed) else "pass modalities= with names that are there"
    problems = [
        Problem("E-U60", f"modality {m!r} is missing", where, why=_listed(held), fix=fix)
        for m in missing
    ]
    raise_problems(UsageError, problems)
    return tuple(dict.fromkeys(names))


def _listed(held: Iterable[str]) -> str:
    return f"the modalities are {', '.join(held)}"


def _near(wanted: str, held: list[str]) -> str:
    """Return the name that may be meant: one written alike, else the only one of the kind."""
    folded = {str(h).casefold(): h for h in held}
    found = get_close_matches(str(wanted).casefold(), folded, n=1)
    if found:
        return folded[found[0]]
    kind = _kind_by_word(str(wanted))
    alike = [h for h in held if kind not in {None, "other"} and _kind_by_word(h) == kind]
    return alike[0] if len(alike) == 1 else ""


def match_cells(
    names: Mapping[str, pd.Index], name: str
) -> tuple[pd.Index, dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Find the cells that all modalities have.

    Parameters
    ----------
    names
        Names of the cells of every modality.
    name
        How messages name the object.

    Returns
    -------
    The names of the common cells in the order of the first modality; the rows of every modality
    that has other cells or another order, int64; and the lines of the input report.

    Raises
    ------
    InputDataError
        E-D45, E-L15; see :func:`pair_modalities`.
    """
    first = next(iter(names.values()))
    if len(names) == 1:
        return first, {}, ()
    repeated = [repeated_names(n, f"{name}[{m!r}]") for m, n in names.items()]
    why = "cells of several modalities are paired by name"
    raise_problems(InputDataError, [replace(p, why=why) for p in repeated if p is not None])
    common = first[np.logical_and.reduce([first.isin(n) for n in names.values()])]
    if not len(common) and any(map(len, names.values())):
        raise InputDataError(_nothing_common(names, name))
    rows = {m: n.get_indexer(common) for m, n in names.items() if not n.equals(common)}
    notes = []
    if any(len(n) > len(common) for n in names.values()):
        sizes = ", ".join(f"{m} {len(n):,}" for m, n in names.items())
        notes.append(
            f"{name}: {len(common):,} cells are in all modalities ({sizes}); the others are left "
            "out"
        )
    moved = [m for m, r in rows.items() if (np.diff(r) < 0).any()]
    if moved:
        notes.append(
            f"{name}: the cells of {', '.join(moved)} are in another order than those of "
            f"{next(iter(names))}; they are paired by name"
        )
    return common, rows, tuple(notes)


def _nothing_common(names: Mapping[str, pd.Index], name: str) -> Problem:
    shown = "; ".join(f"{m} has {', '.join(n[:3]) or 'none'}" for m, n in names.items())
    return Problem(
        "E-D45",
        "no cell is in all modalities",
        name,
        0,
        max(map(len, names.values())),
        why=f"cells are paired by name: {shown}",
        fix="write the names of the same cells alike in the obs_names of every modality"
        + (", or pass modalities= with those that belong together" if len(names) > 2 else ""),
    )


def stale_tables(mdata: MuData | Mapping[str, AnnData], name: str) -> tuple[str, ...]:
    """Return the line that says that MuData's own tables are not of its modalities any more."""
    if isinstance(mdata, Mapping):
        return ()
    cells = pd.Index([])
    for part in mdata.mod.values():
        cells = cells.union(part.obs_names.unique(), sort=False)
    stored = mdata.obs_names
    gone, new = stored.difference(cells), cells.difference(stored)
    if len(gone) or len(new):
        found = f"{len(gone):,} of its cells are in no modality, {len(new):,} cells are not in it"
    elif not all(_in_place(mdata, m) for m in mdata.mod):
        found = "its rows point to other cells"
    else:
        return ()
    return (
        f"{name}.obs is older than the modalities ({found}): it is not read, and "
        f"{name}.update() mends it",
    )


def _in_place(mdata: MuData, modality: str) -> bool:
    """Whether the positions that MuData keeps of a modality are those of its cells."""
    cells, names = mdata.mod[modality].obs_names, mdata.obs_names
    if modality not in mdata.obsmap:
        return False
    # Zero stands for a cell that the modality does not have.
    places = np.asarray(mdata.obsmap[modality]).ravel().astype(np.int64)
    there = places > 0
    fit = len(places) == len(names) and there.sum() == len(cells) >= places.max(initial=0)
    return bool(fit and (cells[places[there] - 1] == names[there]).all())


def shared_names(features: Mapping[str, tuple[str, ...]], name: str) -> list[str]:
    """Say how features of one name are told apart, where several modalities have some."""
    counts = Counter(n for names in features.values() for n in set(names))
    shared = [n for names in features.values() for n in names if counts[n] > 1]
    if not shared:
        return []
    held = [f"{m}:{shared[0]}" for m, names in features.items() if shared[0] in names]
    return [
        f"{name}: {len(set(shared)):,} names of features are in several modalities; they are told "
        f"apart as {', '.join(held)}"
    ]


# -- kinds ---------------------------------------------------------------------------------------


def modality_kind(name: str, var: pd.DataFrame) -> ModalityKind:
    """Say what the features of a modality are.

    What ``var["feature_types"]`` says counts first, then names such as ``chr1:100-200``, then the
    name of the modality, then the names of the features.

    Parameters
    ----------
    name
        Name of the modality.
    var
        Its table of features.
    """
    column = next((c for c in _TYPE_COLUMNS if c in var.columns), None)
    types = [] if column is None else var[column].astype(str).value_counts().index[:1]
    for said in types:
        if said in _TYPES:
            return _TYPES[said]
    names = [str(n) for n in var.index]
    if share_of_peaks(names) > 0.5:
        return "atac"
    by_word = _kind_by_word(name)
    if by_word is not None:
        return by_word
    if names and sum(bool(_KIT.search(n)) for n in names) > 0.5 * len(names):
        return "protein"
    return "rna" if look_like_genes(names) else "other"


def share_of_peaks(names: Sequence[str]) -> float:
    """Return the share of names that are places in a genome, such as ``chr1:100-200``."""
    sample = names[:: max(len(names) // 5_000, 1)]
    return sum(bool(_PEAK.match(n)) for n in sample) / max(len(sample), 1)


def _kind_by_word(name: str) -> ModalityKind | None:
    words = set(re.split(r"[\W_\d]+", name.casefold()))
    return next((kind for kind, known in _WORDS.items() if words & known), None)


# -- proteins ------------------------------------------------------------------------------------

#: What kits and pipelines write behind the name of an antibody.
_KIT = re.compile(r"[_. -](?:TotalSeq[_. -]?[A-D]?|Total[A-D]|TS[A-D])$", re.I)
_CONTROL_WORD = re.compile(
    r"isotype|(?:^|[\W_])iso[\W_]?(?:ctrl|control)|(?:^|[\W_])(?:neg(?:ative)?[\W_]?)?(?:ctrl|control)"
    r"[\W_]?\d*$",
    re.I,
)
# IgG, IgD and IgM alone are also what antibodies of a panel bind to: a subclass or an animal has
# to say that the antibody itself is meant.
_ANIMAL = r"(?:(?:(?:armenian|syrian)[\W_]*)?hamster|mouse|rat|rabbit|goat)"
_CONTROL = re.compile(
    rf"^(?:{_ANIMAL}[\W_]*Ig[ADEGMY](?:\d?[a-c]?)|(?:human[\W_]*|[mr])?IgG\d[a-c]?)"
    r"(?:[\W_]*(?:kappa|lambda|[κλk]))?$",
    re.I,
)
_HASHTAG = re.compile(
    r"(?:^|[\W_])(?:hto|hash[\W_]?tag|sample[\W_]?tag|cmo(?=[\W_]?\d))(?![a-z]{2})", re.I
)


@dataclass(frozen=True, slots=True)
class ProteinNames:
    """Names of the proteins of a panel, without what kits write behind them.

    Parameters
    ----------
    names
        One for each name given, in the same order.
    controls
        Those of isotype and negative controls.
    hashtags
        Those of antibodies that name the sample.
    notes
        Lines of the input report.
    """

    names: tuple[str, ...]
    controls: tuple[str, ...]
    hashtags: tuple[str, ...]
    notes: tuple[str, ...]


def protein_names(names: Iterable[object]) -> ProteinNames:
    """Take blanks and the suffix of a kit off names of proteins, and find the controls.

    Parameters
    ----------
    names
        Names such as ``CD3_TotalSeqB``; names that differ stay different.

    Returns
    -------
    :class:`ProteinNames`, with as many names in the same order.

    Examples
    --------
    >>> protein_names(["CD3_TotalSeqB", "IgG1_control_TotalSeqB"]).names
    ('CD3', 'IgG1_control')
    >>> protein_names(["CD3_TotalSeqB", "IgG1_control_TotalSeqB"]).controls
    ('IgG1_control',)
    """
    given = [str(n) for n in names]
    plain = _shortened(given, str.strip)
    short = _shortened(plain, lambda n: _KIT.sub("", n) or n)
    hashtags = tuple(n for n in short if _HASHTAG.search(n))
    controls = tuple(
        n for n in short if n not in hashtags and (_CONTROL.match(n) or _CONTROL_WORD.search(n))
    )
    freed, cut, kept = _n_changed(given, plain), _n_changed(plain, short), _n_with_suffix(short)
    said = [
        (freed, f"{freed:,} names were freed of blanks"),
        (cut, f"{cut:,} names lose the suffix of a kit"),
        (kept, f"{kept:,} keep their suffix: without it two would be one"),
        (len(controls), f"{len(controls):,} isotype or negative controls: {_some(controls)}"),
        (len(hashtags), f"{len(hashtags):,} hashing tags: {_some(hashtags)}"),
    ]
    return ProteinNames(tuple(short), controls, hashtags, tuple(text for n, text in said if n))


def _shortened(names: list[str], shorter: Callable[[str], str]) -> list[str]:
    """Shorten names, except where two different ones would become one."""
    short = [shorter(n) for n in names]
    while True:
        owners: dict[str, set[str]] = {}
        for before, after in zip(names, short, strict=True):
            owners.setdefault(after, set()).add(before)
        several = {after for after, before in owners.items() if len(before) > 1}
        if not several:
            return short
        short = [b if a in several else a for b, a in zip(names, short, strict=True)]


def _n_changed(before: list[str], after: list[str]) -> int:
    return sum(b != a for b, a in zip(before, after, strict=True))


def _n_with_suffix(names: list[str]) -> int:
    return sum(bool(_KIT.search(n)) for n in names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
