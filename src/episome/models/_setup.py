"""What every set-up does with the matrix, whether or not there are labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import anndata
import numpy as np

from episome.data import (
    FeatureSpace,
    InputRule,
    cells_name,
    check_values,
    doubtful_values,
    not_cells,
    obs_column,
    organisms_of,
    require_choice,
    require_finite,
    scan_values,
    transposed,
)
from episome.errors import Collector, InputDataError, UsageError, warn
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data import CellSource

logger = get_logger(__name__)

MIN_TRAINING_CELLS = 4
_WORDS = {
    "unlabeled": ("error", "keep", "drop"),
    "input_kind": ("auto", "counts", "log1p"),
    "size_factor": ("model_genes", "all_genes"),
    "duplicates": ("error", "sum"),
    "nan": ("error", "zero"),
}


def require_cells(adata: AnnData) -> None:
    """Refuse what is no AnnData object, and views.

    Raises
    ------
    UsageError
        E-U07, or E-U29 for a view.
    """
    if not isinstance(adata, anndata.AnnData):
        raise not_cells(adata)
    if adata.is_view:
        raise UsageError(
            "E-U29",
            "the object is a view",
            where=cells_name(adata),
            why="set-up has to leave its bookkeeping in the object",
            fix="adata = adata.copy()",
        )


def require_columns(adata: AnnData, *keys: str | Sequence[str] | None) -> None:
    """Refuse columns that there are not, before the values are looked at.

    Parameters
    ----------
    adata
        Training cells.
    *keys
        Names of columns of ``obs``, lists of them, or ``None``.

    Raises
    ------
    UsageError
        E-U04.
    """
    for key in keys:
        for name in (key,) if isinstance(key, str) else key or ():
            obs_column(adata, name)


def require_words(kwargs: Mapping[str, object], **words: str) -> None:
    """Refuse unknown arguments of a set-up, and words that an argument does not take."""
    _require_known(kwargs)
    for name, value in words.items():
        require_choice(name, value, _WORDS[name])


# What scvi-tools hands to a set-up method when it transfers one.
_TRANSFER = frozenset({"source_registry", "extend_categories", "allow_missing_labels"})
#: What ``setup_source`` hands to it beside: the source that the cells are read from.
SOURCE = "cell_source"


def _require_known(kwargs: Mapping[str, object]) -> None:
    if unknown := sorted(set(kwargs) - _TRANSFER - {SOURCE}):
        raise UsageError(
            "E-U24",
            f"unknown arguments {', '.join(unknown)}",
            where="setup_anndata()",
            why="the model has no use for them",
            fix="leave them out",
        )


def registered_embedding(source: CellSource, key: str) -> tuple[FeatureSpace, InputRule]:
    """Look at vectors of training cells.

    Raises
    ------
    InputDataError
        Too few cells (E-D31, E-D32), vectors with NaN or infinite values (E-D01, E-D03).
    """
    _require_enough(source)
    rule = InputRule("embedding", obsm_key=key)
    require_finite(source)
    return FeatureSpace(tuple(source.var.index)), rule


def _require_enough(source: CellSource) -> None:
    if source.n_obs < MIN_TRAINING_CELLS:
        raise InputDataError(
            "E-D31" if source.n_obs == 0 else "E-D32",
            "too few cells to train on",
            where=source.where,
            count=source.n_obs,
            why=f"at least {MIN_TRAINING_CELLS} are needed",
            fix="pass more cells",
        )


def registered_input(
    source: CellSource,
    input_kind: Literal["auto", "counts", "log1p"],
    size_factor: Literal["model_genes", "all_genes"],
    duplicates: Literal["error", "sum"],
    *,
    allow_fractional: bool,
    nan: Literal["error", "zero"],
) -> tuple[FeatureSpace, InputRule]:
    """Look at the values and genes of training cells, and say what will be done with them.

    Raises
    ------
    InputDataError
        Too few cells (E-D31, E-D32), genes or values that cannot be used.
    """
    _require_enough(source)
    if turned := transposed(source.obs_names, source.var.index, source.where):
        raise InputDataError(turned)
    found = Collector()
    with found.collecting():
        features = FeatureSpace.from_var(source.var, where=source.where, duplicates=duplicates)
    _, report, zeroed = scan_values(source, nan)
    with found.collecting():
        kind = check_values(report, input_kind)
    found.raise_all()
    for problem in doubtful_values(report, allow_fractional=allow_fractional):
        warn(problem)
    target = report.expm1_row_sum if kind == "log1p" else None
    named = organisms_of(source)
    rule = InputRule(
        kind,
        size_factor,
        float(np.round(target, 3)) if target else 1e4,
        organisms=() if named is None else named.names,
    )
    for note in (*getattr(source, "notes", ()), *zeroed):
        logger.info("%s", note)
    logger.info("%s holds %s (%s)", source.where, kind, report.evidence)
    return features, rule
