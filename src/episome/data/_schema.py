"""Set-up arguments that follow from the CELLxGENE schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from episome.data._columns import guess_donors, guess_labels
from episome.data._keys import CELLXGENE_DATASET, CELLXGENE_DONOR, CELLXGENE_LABELS
from episome.data._many import ManyCells
from episome.data._own_sources import own_source
from episome.data._query import listed
from episome.data._read import read_cells
from episome.data._source import AnnDataSource, CellSource, existing_columns
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from episome.data._matrix import Matrix


@dataclass(frozen=True, slots=True)
class SchemaChoice:
    """Set-up arguments read off an object that follows the CELLxGENE schema."""

    labels_key: str | None
    donor_key: tuple[str, ...] | None
    layer: str | None
    use_raw: bool

    @property
    def text(self) -> str:
        """What was chosen, in one line."""
        slot = "raw.X" if self.use_raw else (f"layers[{self.layer!r}]" if self.layer else "X")
        donor = " + ".join(self.donor_key) if self.donor_key else "none"
        labels = "" if self.labels_key is None else f"labels_key={self.labels_key!r}, "
        return f"{labels}donors: {donor}, values: {slot}"


def cellxgene_choice(adata: AnnData, *, model: str, needs_labels: bool = True) -> SchemaChoice:
    """Choose set-up arguments for an object that was not set up.

    Raw counts are in ``raw.X`` where a normalised ``X`` exists (CELLxGENE schema 7), so ``raw`` is
    looked at first, then ``layers["counts"]``, then ``X``.

    Parameters
    ----------
    adata
        The object.
    model
        How messages name the model.
    needs_labels
        Whether it reads labels; without, the object needs no column of them.

    Raises
    ------
    UsageError
        The object is a view (E-U29) or has no ``cell_type`` column (E-U28).
    """
    if adata.is_view:
        raise UsageError(
            "E-U29",
            "the object is a view",
            where="adata",
            why="set-up has to leave its bookkeeping in the object",
            fix="adata = adata.copy()",
        )
    if needs_labels and CELLXGENE_LABELS not in adata.obs.columns:
        raise UsageError(
            "E-U28",
            "the object is not set up and has no column 'cell_type'",
            where="adata.obs",
            why=f"the columns are {[str(c) for c in adata.obs.columns][:12]}",
            fix=f"call {model}.setup_anndata(adata, {_guessed(adata.obs)}) first",
        )
    donor: tuple[str, ...] | None = None
    if CELLXGENE_DONOR in adata.obs.columns:
        dataset = (CELLXGENE_DATASET,) if CELLXGENE_DATASET in adata.obs.columns else ()
        donor = (*dataset, CELLXGENE_DONOR)
    layer, use_raw = _place(adata)
    return SchemaChoice(CELLXGENE_LABELS if needs_labels else None, donor, layer, use_raw)


def _guessed(obs: pd.DataFrame) -> str:
    """Return the arguments of a set-up, as far as the names and values of columns tell them."""
    labels, donors = guess_labels(obs), guess_donors(obs)
    said = [f"labels_key={labels[0].name!r}" if labels else "labels_key=..."]
    return ", ".join(said + [f"donor_key={d.name!r}" for d in donors[:1] if d.n_values > 1])


def cellxgene_source(
    data: str | Path | CellSource | Sequence[str | Path | CellSource],
    *,
    model: str,
    needs_labels: bool = True,
) -> tuple[CellSource, SchemaChoice]:
    """Open cells that are in the schema and stay where they are.

    Parameters
    ----------
    data
        A path, a folder of h5ad files, a list, or a source, which is read as it is.
    model
        How the message names the model.
    needs_labels
        Whether it reads labels; without, cells need no column of them.

    Returns
    -------
    The source, and the columns that were chosen.

    Raises
    ------
    UsageError
        There is no ``cell_type`` column (E-U28).
    """
    if isinstance(data, CellSource):
        source: CellSource = data
    elif (several := listed(data)) is not None:
        source = ManyCells(several, opener=_opened)
    else:
        own = own_source(str(data))
        source = _opened(Path(str(data))) if own is None else own
    there = existing_columns(source, (CELLXGENE_LABELS, CELLXGENE_DATASET, CELLXGENE_DONOR))
    if needs_labels and CELLXGENE_LABELS not in there:
        raise UsageError(
            "E-U28",
            "the cells are not set up and have no column 'cell_type'",
            where=source.where,
            why="without the columns of the CELLxGENE schema nobody knows which are the labels",
            fix=f"{model}.setup_source(data, labels_key=...) makes what the model takes",
        )
    columns = tuple(c for c in there if c != CELLXGENE_LABELS)
    donor = columns if CELLXGENE_DONOR in there else None
    layer, use_raw = getattr(source, "layer", None), bool(getattr(source, "use_raw", False))
    labels = CELLXGENE_LABELS if needs_labels else None
    return source, SchemaChoice(labels, donor, layer, use_raw)


def _opened(path: Path) -> AnnDataSource:
    """Open a file with its values where the schema has them."""
    adata = read_cells(path, backed=True)
    layer, use_raw = _place(adata)
    return AnnDataSource(adata, layer=layer, use_raw=use_raw, name=path.name or str(path))


def _place(adata: AnnData) -> tuple[str | None, bool]:
    """Return the layer of the counts, and whether they are in ``raw``."""
    layers = [k for k in adata.layers if k is not None]
    use_raw = adata.raw is not None and _looks_like_counts(adata.raw.X)
    return ("counts" if not use_raw and "counts" in layers else None), use_raw


def _looks_like_counts(matrix: Matrix) -> bool:
    """Whether the first rows are integers; the full scan at set-up has the last word."""
    from episome.data._matrix import to_csr_block

    try:
        block = to_csr_block(matrix[:64])
    except InputDataError:
        return False
    return bool(block.nnz) and bool(
        (block.data == block.data.round()).all() and block.data.min() >= 0
    )
