"""Set-up arguments that follow from the CELLxGENE schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from episome.data._keys import CELLXGENE_DATASET, CELLXGENE_DONOR, CELLXGENE_LABELS
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data._matrix import Matrix


@dataclass(frozen=True, slots=True)
class SchemaChoice:
    """Set-up arguments read off an object that follows the CELLxGENE schema."""

    labels_key: str
    donor_key: tuple[str, ...] | None
    layer: str | None
    use_raw: bool

    @property
    def text(self) -> str:
        """What was chosen, in one line."""
        slot = "raw.X" if self.use_raw else (f"layers[{self.layer!r}]" if self.layer else "X")
        donor = " + ".join(self.donor_key) if self.donor_key else "none"
        return f"labels_key={self.labels_key!r}, donors: {donor}, values: {slot}"


def cellxgene_choice(adata: AnnData, *, model: str) -> SchemaChoice:
    """Choose set-up arguments for an object that was not set up.

    Raw counts are in ``raw.X`` where a normalised ``X`` exists (CELLxGENE schema 7), so ``raw`` is
    looked at first, then ``layers["counts"]``, then ``X``.

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
    if CELLXGENE_LABELS not in adata.obs.columns:
        raise UsageError(
            "E-U28",
            "the object is not set up and has no column 'cell_type'",
            where="adata.obs",
            why=f"the columns are {[str(c) for c in adata.obs.columns][:12]}",
            fix=f"call {model}.setup_anndata(adata, labels_key=...) first",
        )
    donor: tuple[str, ...] | None = None
    if CELLXGENE_DONOR in adata.obs.columns:
        dataset = (CELLXGENE_DATASET,) if CELLXGENE_DATASET in adata.obs.columns else ()
        donor = (*dataset, CELLXGENE_DONOR)
    layers = [k for k in adata.layers if k is not None]
    use_raw = adata.raw is not None and _looks_like_counts(adata.raw.X)
    layer = "counts" if not use_raw and "counts" in layers else None
    return SchemaChoice(CELLXGENE_LABELS, donor, layer, use_raw)


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
