"""What kind of names genes have, and of which species they look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from episome.data._gene_match import clean_names
from episome.errors import Problem

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

IdKind: TypeAlias = Literal[
    "symbols", "Ensembl", "Ensembl with version", "mixed", "numbered", "unknown"
]

#: Prefix of Ensembl-like gene identifiers -> species.
ENSEMBL_SPECIES = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSMMUG": "macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSPTRG": "chimpanzee",
    "ENSCJAG": "marmoset",
    "ENSSSCG": "pig",
    "ENSBTAG": "cow",
    "ENSGALG": "chicken",
    "FBgn": "fruit fly",
    "WBGene": "worm",
}
#: NCBI taxon of the species that the names tell apart.
TAXON_SPECIES = {
    "NCBITaxon:9606": "human",
    "NCBITaxon:10090": "mouse",
    "NCBITaxon:10116": "rat",
    "NCBITaxon:7955": "zebrafish",
    "NCBITaxon:9544": "macaque",
    "NCBITaxon:9541": "crab-eating macaque",
    "NCBITaxon:9598": "chimpanzee",
    "NCBITaxon:9483": "marmoset",
    "NCBITaxon:9823": "pig",
    "NCBITaxon:9913": "cow",
    "NCBITaxon:9031": "chicken",
    "NCBITaxon:7227": "fruit fly",
    "NCBITaxon:6239": "worm",
}
_LATIN = {
    "homo sapiens": "human",
    "mus musculus": "mouse",
    "rattus norvegicus": "rat",
    "danio rerio": "zebrafish",
    "macaca mulatta": "macaque",
    "drosophila melanogaster": "fruit fly",
    "caenorhabditis elegans": "worm",
}
#: Assembly that a mixing experiment writes before a name -> species.
ASSEMBLY_SPECIES = {
    "grch37": "human",
    "grch38": "human",
    "hg18": "human",
    "hg19": "human",
    "hg38": "human",
    "grcm38": "mouse",
    "grcm39": "mouse",
    "mm9": "mouse",
    "mm10": "mouse",
    "mm39": "mouse",
}
_ASSEMBLY = re.compile(rf"^({'|'.join(ASSEMBLY_SPECIES)})[_:-]+\S", re.I)
_ENSEMBL = re.compile(r"^(ENS[A-Z]*G|FBgn|WBGene)(\d{6,})(\.\d+)?$")
PLACEHOLDER = re.compile(r"^(gene|Gene|feature|var|col|column|x|v|g)[ _.-]?\d+$")
# Clone names (AC004556.1, RP11-34P13.7) are the same in all files, and say nothing of the case.
_CLONE = re.compile(r"^(A[A-Z]\d{6}(\.\d+)?|(RP|CT|XX|KB|LL)[A-Za-z0-9]*-\w+(\.\d+)?)$")
_UPPER = re.compile(r"^[A-Z0-9][A-Z0-9-]*(orf\d+\w*)?(\.\d+)?(-AS\d?|-IT\d?|-DT)?$")
_TITLE = re.compile(
    r"^([A-Z][a-z0-9-]*[a-z][A-Za-z0-9.-]*|\d{6,}[A-Z]\d{2}Rik|Gm\d+|mt-[A-Z]\w*)$"
)
_LOWER = re.compile(r"^[a-z][a-z0-9:.-]*$")
#: Share of the telling names that must agree on a species.
AGREE = 0.8
#: Share above which a second kind or species is no accident.
MANY = 0.1
#: Names that are looked at; a genome is about ten times this.
SAMPLE = 5_000
#: Genes that nearly every file has, whatever was chosen.
COMMON = frozenset(
    (
        "ACTB", "B2M", "GAPDH", "MALAT1", "EEF1A1", "RPLP0", "RPLP1", "RPS27", "RPL10", "RPL13",
        "TMSB4X", "FTL", "FTH1", "UBC", "TPT1", "NACA", "HSP90AA1", "HSPA8", "JUN", "FOS", "VIM",
        "CD74", "LYZ", "S100A9", "CD3D", "CD3E", "MS4A1", "NKG7", "GNLY", "CD14", "ALB", "INS",
        "GCG", "COL1A1", "SNAP25", "MBP",
    )
)  # fmt: skip
_BARCODE = re.compile(r"(?:^|[_:-])[ACGT]{10,}(?:[-_:]|$)")


@dataclass(frozen=True, slots=True)
class GeneNames:
    """What a list of gene names looks like.

    Parameters
    ----------
    kind
        Kind of most names; ``"mixed"`` where a tenth or more are of a second kind.
    species
        Species that the names point to, or ``""``.
    evidence
        Why, in words.
    n_versioned
        Ensembl identifiers with a version.
    species_counts
        Names that point to each species.
    n_repeated, repeated
        Names that stand more than once, and the first three of them.
    """

    kind: IdKind
    species: str
    evidence: str
    n_versioned: int
    species_counts: dict[str, int]
    n_repeated: int = 0
    repeated: tuple[str, ...] = ()


def describe_gene_names(names: Iterable[object]) -> GeneNames:
    """Say what kind of names these are and of which species they look.

    Ensembl identifiers name their species. Symbols show it by their case: ``CD4`` in human,
    ``Cd4`` in mouse and rat, ``cd4`` in zebrafish; names of clones count for none.

    Parameters
    ----------
    names
        Gene names; about 5,000, evenly spread, are looked at, and all for repeated ones.
    """
    every = [text for n in names if (text := str(n).strip()) and text != "nan"]
    repeated = [name for name, n in Counter(every).items() if n > 1]
    return replace(_described(every), n_repeated=len(repeated), repeated=tuple(repeated[:3]))


def _described(every: list[str]) -> GeneNames:
    # Evenly over the list: files of two species often have one after the other.
    sample = every[:: max(len(every) // SAMPLE, 1)]
    if not sample:
        return GeneNames("unknown", "", "there are no names", 0, {})
    ensembl = [m for n in sample if (m := _ENSEMBL.match(n))]
    numbered = sum(bool(PLACEHOLDER.match(n)) or n.isdigit() for n in sample)
    versioned = sum(m[3] is not None for m in ensembl)
    kind = _kind(len(sample), len(ensembl), numbered, versioned)
    counts: dict[str, int] = {}
    for m in ensembl:
        species = ENSEMBL_SPECIES.get(m[1], "")
        counts[species] = counts.get(species, 0) + 1
    if kind in {"Ensembl", "Ensembl with version"}:
        return GeneNames(kind, *_by_prefix(counts, len(ensembl)), versioned, _named(counts))
    if kind in {"numbered", "unknown"}:
        return GeneNames(kind, "", "the names are numbers", versioned, _named(counts))
    rest = [n for n in sample if not _ENSEMBL.match(n)]
    cases = _cases(rest)
    species, evidence = _by_case(cases)
    for name, n in cases.items():
        counts[name] = counts.get(name, 0) + n
    return GeneNames(kind, species, evidence, versioned, _named(counts))


def identifiers(names: object) -> NDArray[np.object_]:
    """Return those of some names that are Ensembl-like identifiers, clean; others are ``""``."""
    clean = clean_names(names)
    return np.array([n if _ENSEMBL.match(n) else "" for n in clean], dtype=object)


def _kind(n: int, n_ensembl: int, n_numbered: int, n_versioned: int) -> IdKind:
    if n_numbered > 0.9 * n:
        return "numbered"
    if n_ensembl >= (1 - MANY) * n:
        return "Ensembl with version" if n_versioned > 0.5 * n_ensembl else "Ensembl"
    return "symbols" if n_ensembl < MANY * n else "mixed"


def _by_prefix(counts: dict[str, int], total: int) -> tuple[str, str]:
    species, n = max(counts.items(), key=lambda item: item[1])
    if not species:
        return "", "the Ensembl prefix is of a species that is not known here"
    share = n / total
    evidence = f"{share:.0%} of the Ensembl identifiers are of {species}"
    return (species if share >= AGREE else ""), evidence


def _cases(names: list[str]) -> dict[str, int]:
    telling = [n for n in names if not _CLONE.match(n) and any(c.isalpha() for c in n)]
    upper = sum(bool(_UPPER.match(n)) for n in telling)
    title = sum(bool(_TITLE.match(n)) and not _UPPER.match(n) for n in telling)
    lower = sum(bool(_LOWER.match(n)) for n in telling)
    return {"human": upper, "mouse": title, "zebrafish": lower}


def _by_case(cases: dict[str, int]) -> tuple[str, str]:
    total = sum(cases.values())
    if not total:
        return "", "no name shows a species"
    species, n = max(cases.items(), key=lambda item: item[1])
    how = {"human": "in capitals", "mouse": "as Cd4", "zebrafish": "in small letters"}[species]
    evidence = f"{n / total:.0%} of the symbols are written {how}, as those of {species}"
    return (species if n >= AGREE * total else ""), evidence


def _named(counts: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if name and n}


def mixed_species(names: Iterable[object], where: str) -> Problem | None:
    """Return the problem of genes of several species (E-G16), as of a mixing experiment.

    They are told apart by their Ensembl identifiers, or by the assembly that Cell Ranger writes
    before the names of such an experiment (``GRCh38_CD4``, ``mm10___Cd4``).
    """
    every = [str(n) for n in names]
    genes = describe_gene_names(every)
    counts = genes.species_counts if genes.kind.startswith("Ensembl") else {}
    found = [m[1].casefold() for n in every if (m := _ASSEMBLY.match(n))]
    if len(found) > AGREE * len(every):
        counts = dict(Counter(ASSEMBLY_SPECIES[assembly] for assembly in found))
    total = sum(counts.values())
    many = {s: n for s, n in counts.items() if n > MANY * total}
    if len(many) < 2:
        return None
    return Problem(
        "E-G16",
        f"genes of {len(many)} species ({', '.join(f'{s} {n:,}' for s, n in many.items())})",
        where,
        why="one model reads one species, and reads of the other are counted as missing",
        fix="keep the genes of one species, and the cells that are of it",
    )


def transposed(obs_names: pd.Index, var_names: pd.Index, where: str) -> Problem | None:
    """Return the problem of genes that stand where cells belong (E-D35), if they do."""
    if not look_like_genes(obs_names[:20_000]) or look_like_genes(var_names):
        return None
    return Problem(
        "E-D35",
        "the names of the cells look like genes",
        where,
        len(obs_names),
        len(obs_names),
        list(obs_names[:3]),
        "rows must be cells and columns genes",
        "adata = adata.T",
    )


def species_named(text: object) -> str:
    """Return the species of an NCBI taxon or Latin name, or ``""`` where it is not known here."""
    value = str(text).strip()
    name = value.casefold().replace("_", " ")
    return TAXON_SPECIES.get(value, _LATIN.get(name, "")) or (
        name if name in TAXON_SPECIES.values() else ""
    )


def look_like_genes(names: Iterable[object]) -> bool:
    """Whether names are those of genes: Ensembl identifiers, or some of the commonest symbols."""
    sample = [str(n) for n in names]
    if not sample:
        return False
    ensembl = sum(bool(_ENSEMBL.match(n)) for n in sample[:SAMPLE])
    common = len(COMMON & {n.upper() for n in sample})
    return ensembl > 0.5 * min(len(sample), SAMPLE) or common >= 5


def look_like_barcodes(names: Iterable[object]) -> bool:
    """Whether most of the first names hold a run of ten nucleotides, as cell barcodes do."""
    sample = [str(n) for n, _ in zip(names, range(200), strict=False)]
    return sum(bool(_BARCODE.search(n)) for n in sample) > 0.5 * max(len(sample), 1)
