"""`inspect`: what an object of cells holds, is doubtful, or must be mended, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, overload

from episome.data._inspect_cells import inspect_cells
from episome.data._inspect_checks import Meant
from episome.data._inspect_modalities import inspect_modalities
from episome.data._modalities import holds_modalities
from episome.data._query import not_cells

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from episome.data._features import FeatureSpace
    from episome.data._gene_repairs import GeneMap
    from episome.data._importance import GeneImportance
    from episome.data._inspection import Inspection, MuInspection
    from episome.data._rule import InputRule


@overload
def inspect(
    adata: MuData | Mapping[str, AnnData],
    *,
    layer: str | None = ...,
    use_raw: bool = ...,
    name: str | None = ...,
    features: FeatureSpace | None = ...,
    rule: InputRule | None = ...,
    min_gene_overlap: float = ...,
    duplicates: Literal["error", "sum", "first"] = ...,
    gene_map: GeneMap | None = ...,
    gene_case: Literal["as is", "upper"] = ...,
    importance: GeneImportance | None = ...,
) -> MuInspection: ...
# To the type checker of this project both are Any: it does not follow anndata.
@overload
def inspect(  # type: ignore[overload-cannot-match]
    adata: AnnData,
    *,
    layer: str | None = ...,
    use_raw: bool = ...,
    name: str | None = ...,
    features: FeatureSpace | None = ...,
    rule: InputRule | None = ...,
    min_gene_overlap: float = ...,
    duplicates: Literal["error", "sum", "first"] = ...,
    gene_map: GeneMap | None = ...,
    gene_case: Literal["as is", "upper"] = ...,
    importance: GeneImportance | None = ...,
) -> Inspection: ...
def inspect(
    adata: AnnData | MuData | Mapping[str, AnnData],
    *,
    layer: str | None = None,
    use_raw: bool = False,
    name: str | None = None,
    features: FeatureSpace | None = None,
    rule: InputRule | None = None,
    min_gene_overlap: float = 0.5,
    duplicates: Literal["error", "sum", "first"] = "error",
    gene_map: GeneMap | None = None,
    gene_case: Literal["as is", "upper"] = "as is",
    importance: GeneImportance | None = None,
) -> Inspection | MuInspection:
    """Look at cells as every model would, and report everything at once.

    All values are scanned, in blocks of bounded memory. Counts are looked for in the named slot,
    ``raw.X``, layers named for counts, then ``X``. Of several modalities each is looked at on its
    own: names of genes and counts are asked of RNA only.

    Parameters
    ----------
    adata
        The object, in memory or backed, or MuData; never modified.
    layer, use_raw
        The slot to use, of MuData in its RNA; default the first that holds counts, else ``X``.
    name
        How messages name the object.
    features, rule
        Genes and input rule of a model that the cells are meant for.
    min_gene_overlap, duplicates, gene_map, gene_case
        As when the model is used.
    importance
        How much the model's calls rest on every gene, such as ``model.gene_importance``.

    Returns
    -------
    An :class:`Inspection`, of several modalities a :class:`MuInspection`; problems are in it, not
    raised.

    Raises
    ------
    UsageError, InputDataError
        The named slot does not exist, or a modality is no object of cells (E-U07).
    """
    meant = Meant(features, rule, min_gene_overlap, duplicates, gene_map, gene_case, importance)
    if holds_modalities(adata):
        name = name or "mdata"
        return inspect_modalities(adata, layer, use_raw=use_raw, name=name, meant=meant)
    if not (hasattr(adata, "obs") and hasattr(adata, "layers")):
        raise not_cells(adata)
    return inspect_cells(adata, layer, use_raw=use_raw, name=name, meant=meant)
