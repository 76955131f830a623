"""What an object of cells holds: what was found, is doubtful, or must be mended, all at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from episome.data._columns import ColumnGuess, assays, guess_donors, guess_labels, organisms
from episome.data._features import FeatureSpace
from episome.data._gene_names import (
    GeneNames,
    describe_gene_names,
    mixed_species,
    species_named,
    transposed,
)
from episome.data._keys import GENE_ID_COLUMNS
from episome.data._rule import query_kind
from episome.data._source import AnnDataSource, repeated_names
from episome.data._values import ValueReport, check_values, doubtful_values, inspect_values
from episome.errors import EpisomeError, EpisomeWarning, Problem

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data._gene_repairs import GeneMap
    from episome.data._rule import InputRule

Severity: TypeAlias = Literal["must mend", "doubtful"]

#: Layers that are scanned beside X and raw: those whose name promises counts.
COUNT_LAYERS = ("counts", "raw_counts", "raw", "umi", "UMIs", "spliced_counts")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and whether the data can be used in spite of it."""

    severity: Severity
    problem: Problem


@dataclass(frozen=True, slots=True)
class Inspection:
    """What :func:`inspect` found.

    Parameters
    ----------
    name
        How the object is called in messages.
    n_obs, n_vars
        Cells, and genes of the values that are used.
    values
        A report of every matrix that was scanned, by its slot (``"X"``, ``"raw.X"``,
        ``"layers['counts']"``).
    slot
        The slot that is used.
    genes
        What the gene names of that slot look like.
    name_columns
        Columns of ``var`` with other names, and what those look like.
    species, species_said
        Species that the names point to, and those that the object names.
    assays
        Assays that the object names.
    labels, donors
        Columns that may hold labels and donors, the likeliest first.
    findings
        What must be mended, then what is doubtful.
    repairs
        What is put right when the data are used, in words.
    arguments
        Arguments of ``setup_anndata`` that follow.
    """

    name: str
    n_obs: int
    n_vars: int
    values: dict[str, ValueReport]
    slot: str
    genes: GeneNames
    name_columns: dict[str, GeneNames]
    species: str
    species_said: tuple[str, ...]
    assays: tuple[str, ...]
    labels: tuple[ColumnGuess, ...]
    donors: tuple[ColumnGuess, ...]
    findings: tuple[Finding, ...]
    repairs: tuple[str, ...] = ()
    arguments: dict[str, object] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not any(f.severity == "must mend" for f in self.findings)

    @property
    def text(self) -> str:
        """The whole report, one subject a line."""
        lines = [f"{self.name}: {self.n_obs:,} cells, {self.n_vars:,} genes"]
        lines += [f"  values   {slot}: {self._of_values(slot)}" for slot in self.values]
        lines.append(f"  genes    {self._of_genes()}")
        lines.append(f"  species  {self._of_species()}")
        lines.append(f"  assay    {', '.join(self.assays) or 'not named'}")
        lines.append(f"  labels   {_of_columns(self.labels, 'classes') or 'no column found'}")
        lines.append(f"  donors   {_of_columns(self.donors, 'values') or 'no column found'}")
        lines += [f"  repaired {text}" for text in self.repairs]
        for finding in self.findings:
            lines.append(f"  {finding.severity}: {finding.problem}")
        if self.ok:
            lines.append("  nothing must be mended")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        plain = asdict(self)
        plain["values"] = {
            slot: {**asdict(v), "kind": v.kind, "form": v.form, "evidence": v.evidence}
            for slot, v in self.values.items()
        }
        plain["findings"] = [
            {"severity": f.severity, "code": f.problem.code, "message": str(f.problem)}
            for f in self.findings
        ]
        return {**plain, "ok": self.ok}

    def _of_values(self, slot: str) -> str:
        report = self.values[slot]
        used = "  <- used" if slot == self.slot else ""
        return f"{report.form} ({report.evidence}){used}"

    def _of_genes(self) -> str:
        others = [f"{c}: {g.kind}" for c, g in self.name_columns.items()]
        return f"{self.genes.kind} in var_names" + (f"; {', '.join(others)}" if others else "")

    def _of_species(self) -> str:
        said = f"the object says {', '.join(self.species_said)}" if self.species_said else ""
        names = self.genes.evidence if self.species or not said else ""
        return "; ".join(part for part in (self.species, names, said) if part) or "not known"


def _of_columns(columns: tuple[ColumnGuess, ...], what: str) -> str:
    shown = []
    for c in columns[:4]:
        missing = f", {c.n_missing:,} cells without" if c.n_missing else ""
        shown.append(f"{c.name} ({c.n_values:,} {what}{missing})")
    return ", ".join(shown)


def inspect(
    adata: AnnData,
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
) -> Inspection:
    """Look at cells as every model would, and report everything at once.

    All values are scanned, in blocks of bounded memory. Counts are looked for in the named slot,
    ``raw.X``, layers named for counts, then ``X``.

    Parameters
    ----------
    adata
        The object, in memory or backed; never modified.
    layer, use_raw
        The slot to use; default the first that holds counts, else ``X``.
    name
        How messages name the object.
    features, rule
        Genes and input rule of a model that the cells are meant for.
    min_gene_overlap, duplicates, gene_map, gene_case
        As when the model is used.

    Returns
    -------
    An :class:`Inspection`; problems are in it, not raised.

    Raises
    ------
    UsageError, InputDataError
        The named slot does not exist.
    """
    sources = _sources(adata, layer, use_raw=use_raw, name=name)
    collected = _Findings()
    values = {}
    for slot, source in sources.items():
        with collected.collecting():
            values[slot] = inspect_values(source)
    chosen = next((s for s, v in values.items() if v.kind == "counts"), next(iter(sources)))
    source = sources[chosen]
    if chosen in values and source.n_obs:
        with collected.collecting():
            check_values(values[chosen])
            collected.add("doubtful", doubtful_values(values[chosen]))
    genes = describe_gene_names(source.var.index)
    columns = {
        str(c): describe_gene_names(source.var[c]) for c in GENE_ID_COLUMNS if c in source.var
    }
    said = organisms(adata.obs, adata.uns)
    _check_shape(adata, source, collected)
    _check_species(genes, said, source, collected)
    repairs = []
    if features is None:
        with collected.collecting():
            space = FeatureSpace.from_var(
                source.var,
                where=source.where,
                duplicates="error" if duplicates == "error" else "sum",
            )
            if genes.n_versioned:
                repairs.append(f"{genes.n_versioned:,} Ensembl identifiers lose their version")
            if len(space) < source.n_vars:
                repairs.append(f"{source.n_vars - len(space):,} duplicated genes are summed")
    if features is not None and rule is not None:
        with collected.collecting():
            alignment = features.align(
                source.var,
                min_gene_overlap=min_gene_overlap,
                duplicates=duplicates,
                gene_map=gene_map,
                gene_case=gene_case,
                where=source.where,
            )
            repairs.append(alignment.report.text)
        if chosen in values and source.n_obs:
            with collected.collecting():
                repairs.append(query_kind(rule, values[chosen]).note)
    labels, donors = guess_labels(adata.obs), guess_donors(adata.obs)
    return Inspection(
        name=name or source.where.split(".")[0],
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
    )


class _Findings:
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


def _check_shape(adata: AnnData, source: AnnDataSource, found: _Findings) -> None:
    """Cells where genes should be, no cells, and names that stand twice."""
    problems = []
    if source.n_obs == 0:
        problems.append(
            Problem("E-D31", "there are no cells", source.where, fix="pass a file with cells")
        )
    if turned := transposed(adata.obs_names, source.var.index, source.where):
        problems.append(turned)
    found.add("must mend", problems)
    if repeated := repeated_names(adata.obs_names, source.where):
        found.add("doubtful", [repeated])


def _check_species(
    genes: GeneNames, said: tuple[str, ...], source: AnnDataSource, found: _Findings
) -> None:
    """Two species in one file, and names that contradict what the object says."""
    if mixed := mixed_species(source.var.index, source.where):
        found.add("must mend", [mixed])
    known = {species_named(s) for s in said} - {""}
    if genes.species and known and genes.species not in known and not _alike(genes.species, known):
        problem = Problem(
            "E-G21",
            f"genes that look {genes.species}, and an object that says {', '.join(sorted(known))}",
            source.where,
            why=genes.evidence,
            fix="correct organism_ontology_term_id, or map the genes to the species' own",
        )
        found.add("doubtful", [problem])


def _alike(species: str, known: set[str]) -> bool:
    """Whether symbols cannot tell these apart: rat and mouse, primates and human."""
    same_case = (
        {"human", "macaque", "crab-eating macaque", "chimpanzee", "marmoset", "pig", "cow"},
        {"mouse", "rat"},
    )
    return any(species in group and known & group for group in same_case)


def _species(genes: GeneNames, columns: dict[str, GeneNames], said: tuple[str, ...]) -> str:
    """Species by the gene names, else by another column of names, else by the object."""
    by_names = [genes.species, *(g.species for g in columns.values())]
    named = {species_named(s) for s in said} - {""}
    if len(named) == 1 and (not any(by_names) or _alike(next(filter(None, by_names)), named)):
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
