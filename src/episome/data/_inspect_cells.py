"""Look at the cells of one modality as every model would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from episome.data._columns import assays, guess_donors, guess_labels, organisms
from episome.data._gene_names import GeneNames, describe_gene_names, species_named
from episome.data._inspect_checks import (
    Findings,
    alike,
    look_as_a_model,
    look_at_genes,
    look_at_shape,
    look_at_species,
    require_values,
    unusable_names,
)
from episome.data._inspection import Inspection
from episome.data._keys import GENE_ID_COLUMNS
from episome.data._proteins import protein_names, share_of_peaks
from episome.data._source import AnnDataSource
from episome.data._values import inspect_values

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from episome.data._columns import ColumnGuess
    from episome.data._inspect_checks import Meant
    from episome.data._inspection import Finding
    from episome.data._proteins import ModalityKind, ProteinNames
    from episome.data._source import CellSource
    from episome.data._values import ValueReport

#: Layers that are scanned beside X and raw: those whose name promises counts.
COUNT_LAYERS = ("counts", "raw_counts", "raw", "umi", "UMIs", "spliced_counts")


def inspect_cells(
    adata: AnnData,
    layer: str | None,
    *,
    use_raw: bool,
    name: str | None,
    meant: Meant,
    kind: ModalityKind = "rna",
) -> Inspection:
    """Look at the cells of one modality."""
    sources = _sources(adata, layer, use_raw=use_raw, name=name)
    collected = Findings()
    values = {}
    for slot, source in sources.items():
        with collected.collecting():
            values[slot] = inspect_values(source)
    chosen = next((s for s, v in values.items() if v.kind == "counts"), next(iter(sources)))
    source = sources[chosen]
    report = values.get(chosen) if source.n_obs else None
    if report is not None:
        require_values(report, kind, collected)
    said = organisms(adata.obs, adata.uns)
    look_at_shape(source, collected)
    proteins = protein_names(source.var.index) if kind == "protein" else None
    columns: dict[str, GeneNames] = {}
    if kind == "rna":
        genes = describe_gene_names(source.var.index)
        columns = {
            str(c): describe_gene_names(source.var[c]) for c in GENE_ID_COLUMNS if c in source.var
        }
        look_at_species(genes, said, source, collected)
    else:
        genes = _described(source.var.index, kind, proteins)
        collected.add("must mend", unusable_names(source.var.index, kind, source.where))
    repairs, alignment = look_as_a_model(source, report, meant, collected)
    if meant.features is None and kind == "rna":
        repairs = look_at_genes(source, genes, meant.duplicates, collected)
    labels, donors = guess_labels(adata.obs), guess_donors(adata.obs)
    return Inspection(
        name=name or source.where.removesuffix(f".{chosen}"),
        n_obs=source.n_obs,
        n_vars=source.n_vars,
        values=values,
        slot=chosen,
        genes=genes,
        name_columns=columns,
        species=_species(genes, columns, said),
        species_said=tuple(f"{s} ({species_named(s)})" if species_named(s) else s for s in said),
        assays=assays(adata.obs),
        labels=labels,
        donors=donors,
        findings=collected.found,
        repairs=tuple(repairs),
        arguments=_arguments(chosen, labels, donors),
        kind=kind,
        proteins=proteins,
        alignment=alignment,
    )


def inspect_source(
    source: CellSource, duplicates: Literal["error", "sum"]
) -> tuple[tuple[Finding, ...], ValueReport | None]:
    """Look at cells that are no object, for what has to be mended before any use of them.

    Returns
    -------
    What was found, and what the values are, unless that is what cannot be told.
    """
    collected = Findings()
    report = None
    with collected.collecting():
        report = inspect_values(source)
    if report is not None and source.n_obs:
        require_values(report, "rna", collected)
    genes = describe_gene_names(source.var.index)
    look_at_shape(source, collected)
    look_at_species(genes, (), source, collected)
    look_at_genes(source, genes, duplicates, collected)
    return collected.found, report


def _sources(
    adata: AnnData, layer: str | None, *, use_raw: bool, name: str | None
) -> dict[str, AnnDataSource]:
    """Every slot worth a scan, the preferred first; the named one alone if one is named."""
    if layer is not None or use_raw:
        slot = "raw.X" if use_raw else f"layers[{layer!r}]"
        return {slot: AnnDataSource(adata, layer=layer, use_raw=use_raw, name=name)}
    found = {}
    if adata.raw is not None:
        found["raw.X"] = AnnDataSource(adata, use_raw=True, name=name)
    for key in COUNT_LAYERS:
        if key in adata.layers:
            found[f"layers[{key!r}]"] = AnnDataSource(adata, layer=key, name=name)
    if adata.X is not None or not found:
        found["X"] = AnnDataSource(adata, name=name)
    return found


def _described(names: pd.Index, kind: ModalityKind, proteins: ProteinNames | None) -> GeneNames:
    """Say in words what names of other features look like."""
    if proteins is not None:
        shown, more = list(proteins.names[:3]), proteins.notes
    else:
        shown, more = [str(n) for n in names[:3]], ()
    if kind == "atac":
        share = share_of_peaks([str(n) for n in names])
        more = (f"{share:.0%} of the names are places in a genome",)
    first = ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
    return GeneNames("unknown", "", "; ".join([first or "there are no names", *more]), 0, {})


def _species(genes: GeneNames, columns: dict[str, GeneNames], said: tuple[str, ...]) -> str:
    """Species by the gene names, else by another column of names, else by the object."""
    by_names = [genes.species, *(g.species for g in columns.values())]
    named = {species_named(s) for s in said} - {""}
    if len(named) == 1 and (not any(by_names) or alike(next(filter(None, by_names)), named)):
        return named.pop()
    return next(filter(None, by_names), "")


def _arguments(
    slot: str, labels: tuple[ColumnGuess, ...], donors: tuple[ColumnGuess, ...]
) -> dict[str, object]:
    arguments: dict[str, object] = {}
    if labels:
        arguments["labels_key"] = labels[0].name
    if donors and donors[0].n_values > 1:
        arguments["donor_key"] = donors[0].name
    if slot == "raw.X":
        arguments["use_raw"] = True
    elif slot != "X":
        arguments["layer"] = slot.removeprefix("layers['").removesuffix("']")
    return arguments
