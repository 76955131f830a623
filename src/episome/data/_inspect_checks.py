"""What is looked at in the cells of one modality, and how problems are collected."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from episome.data._features import FeatureSpace
from episome.data._gene_names import mixed_species, species_named, transposed
from episome.data._inspection import NOUNS, Finding
from episome.data._organisms import foreign_cells
from episome.data._query import prepare_query
from episome.data._rule import query_kind
from episome.data._source import repeated_names
from episome.data._values import check_values, doubtful_values
from episome.errors import EpisomeError, EpisomeWarning, InputDataError, Problem

if TYPE_CHECKING:
    import pandas as pd

    from episome.data._alignment import AlignmentReport
    from episome.data._gene_names import GeneNames
    from episome.data._gene_repairs import GeneMap
    from episome.data._importance import GeneImportance
    from episome.data._inspection import Severity
    from episome.data._proteins import ModalityKind
    from episome.data._rule import InputRule
    from episome.data._source import CellSource
    from episome.data._values import ValueReport

#: Doubts that only values of genes raise: others are often binary, or no counts at all.
_OF_GENES = frozenset({"E-D10", "E-D11", "E-D15"})


@dataclass(frozen=True, slots=True)
class Meant:
    """The model that cells are meant for, if there is one, and how its genes are matched."""

    features: FeatureSpace | None
    rule: InputRule | None
    min_gene_overlap: float
    duplicates: Literal["error", "sum", "first"]
    gene_map: GeneMap | None
    gene_case: Literal["as is", "upper"]
    importance: GeneImportance | None = None


class Findings:
    """Problems of several checks, each once."""

    def __init__(self) -> None:
        self._problems: dict[str, Finding] = {}

    @property
    def found(self) -> tuple[Finding, ...]:
        """What was collected, what must be mended first."""
        every = self._problems.values()
        return tuple(sorted(every, key=lambda f: f.severity != "must mend"))

    def add(self, severity: Severity, problems: Iterable[Problem]) -> None:
        """Add problems that are not there yet."""
        for problem in problems:
            self._problems.setdefault(str(problem), Finding(severity, problem))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect what the block raises and warns of; other warnings go on their way."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            except EpisomeError as error:
                self.add("must mend", error.problems)
        for warning in caught:
            message = warning.message
            if isinstance(message, EpisomeWarning) and message.problem is not None:
                self.add("doubtful", [message.problem])
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )


def require_values(report: ValueReport, kind: ModalityKind, found: Findings) -> None:
    """Values that no model can use, and doubtful ones; only genes have to be counts or log1p."""
    doubts = doubtful_values(report)
    if kind == "rna":
        with found.collecting():
            check_values(report)
            found.add("doubtful", doubts)
        return
    try:
        check_values(report)
    except InputDataError as error:
        found.add("must mend", [p for p in error.problems if p.code != "E-D04"])
    if report.kind not in {"counts", "empty"}:
        found.add("doubtful", [_no_counts(report, NOUNS[kind])])
    why = "nothing of this modality is known about them"
    kept = [p for p in doubts if p.code not in _OF_GENES]
    found.add("doubtful", [replace(p, why=why) if p.code == "E-D12" else p for p in kept])


def _no_counts(report: ValueReport, noun: str) -> Problem:
    n = report.n_negative or report.n_fractional
    return Problem(
        "E-D46",
        f"values of {noun} that are {'negative' if report.n_negative else 'no integers'}",
        report.where,
        n,
        report.n_stored,
        report.first_bad,
        "as after CLR, TF-IDF or log1p: a model of continuous values takes them, one of counts "
        "does not",
        "pass the layer with raw counts where a model wants them",
    )


def unusable_names(names: pd.Index, kind: ModalityKind, where: str) -> list[Problem]:
    """Features that cannot be told apart or matched by name."""
    noun, text = NOUNS[kind], names.astype(str)
    if not len(names):
        return [Problem("E-D33", f"there are no {noun}", where, fix="pass other data")]
    problems = []
    if all(n.strip().isdigit() for n in text):
        problems.append(
            Problem(
                "E-G13",
                f"names of {noun} that are row numbers",
                where,
                len(names),
                len(names),
                why="another file could only be matched by position",
                fix=f"set var_names to the names of the {noun}",
            )
        )
    repeated = text[text.duplicated()].unique()
    if len(repeated):
        problems.append(
            Problem(
                "E-G11",
                f"duplicated names of {noun}",
                where,
                len(repeated),
                len(names),
                list(repeated[:3]),
                "their columns cannot be told apart",
                "make the names unique",
            )
        )
    return problems


def look_at_genes(
    source: CellSource,
    genes: GeneNames,
    duplicates: Literal["error", "sum", "first"],
    found: Findings,
) -> list[str]:
    """Look at the genes as training would; return what it would put right."""
    repairs = []
    with found.collecting():
        space = FeatureSpace.from_var(
            source.var,
            where=source.where,
            duplicates="error" if duplicates == "error" else "sum",
        )
        if genes.n_versioned:
            repairs.append(f"{genes.n_versioned:,} Ensembl identifiers lose their version")
        if len(space) < source.n_vars:
            repairs.append(f"{source.n_vars - len(space):,} duplicated genes are summed")
    return repairs


def look_as_a_model(
    source: CellSource, report: ValueReport | None, meant: Meant, found: Findings
) -> tuple[list[str], AlignmentReport | None]:
    """Look at genes and values as a model would; return what it would put right, and the genes."""
    repairs: list[str] = []
    genes = None
    if meant.features is None or meant.rule is None:
        return repairs, genes
    if meant.rule.obsm_key is not None:
        with found.collecting():
            repairs += prepare_query(source, meant.features, meant.rule).notes
        return repairs, genes
    with found.collecting():
        alignment = meant.features.match(
            source.var,
            duplicates=meant.duplicates,
            gene_map=meant.gene_map,
            gene_case=meant.gene_case,
            importance=meant.importance,
            where=source.where,
        )
        # Kept also where they are refused: what is lost by cell type says why.
        genes = alignment.report
        meant.features.require_overlap(
            alignment,
            source.var,
            min_gene_overlap=meant.min_gene_overlap,
            duplicates=meant.duplicates,
        )
        repairs.append(genes.text)
    if meant.gene_map is None and (foreign := foreign_cells(meant.rule.organisms, source)):
        found.add("doubtful", [foreign])
    if report is not None:
        with found.collecting():
            repairs.append(query_kind(meant.rule, report).note)
    return repairs, genes


def look_at_shape(source: CellSource, found: Findings) -> None:
    """Cells where genes should be, no cells, and names that stand twice."""
    problems = []
    if source.n_obs == 0:
        problems.append(
            Problem("E-D31", "there are no cells", source.where, fix="pass a file with cells")
        )
    if turned := transposed(source.obs_names, source.var.index, source.where):
        problems.append(turned)
    found.add("must mend", problems)
    if repeated := repeated_names(source.obs_names, source.where):
        found.add("doubtful", [repeated])


def look_at_species(
    genes: GeneNames, said: tuple[str, ...], source: CellSource, found: Findings
) -> None:
    """Two species in one file, and names that contradict what the object says."""
    if mixed := mixed_species(source.var.index, source.where):
        found.add("must mend", [mixed])
    known = {species_named(s) for s in said} - {""}
    if genes.species and known and genes.species not in known and not alike(genes.species, known):
        problem = Problem(
            "E-G21",
            f"genes that look {genes.species}, and an object that says {', '.join(sorted(known))}",
            source.where,
            why=genes.evidence,
            fix="correct organism_ontology_term_id, or map the genes to the species' own",
        )
        found.add("doubtful", [problem])


def alike(species: str, known: set[str]) -> bool:
    """Whether symbols cannot tell these apart: rat and mouse, primates and human."""
    same_case = (
        {"human", "macaque", "crab-eating macaque", "chimpanzee", "marmoset", "pig", "cow"},
        {"mouse", "rat"},
    )
    return any(species in group and known & group for group in same_case)
