"""What an object of cells holds: what was found, is doubtful, or must be mended, all at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

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
from episome.data._modalities import (
    ModalityKind,
    ProteinNames,
    holds_modalities,
    match_cells,
    modality_kind,
    parts_of,
    protein_names,
    share_of_peaks,
    shared_names,
    stale_tables,
)
from episome.data._read import _RNA_NAMES
from episome.data._rule import query_kind
from episome.data._source import AnnDataSource, repeated_names
from episome.data._values import ValueReport, check_values, doubtful_values, inspect_values
from episome.errors import EpisomeError, EpisomeWarning, InputDataError, Problem

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

    from episome.data._gene_repairs import GeneMap
    from episome.data._rule import InputRule

Severity: TypeAlias = Literal["must mend", "doubtful"]

#: Layers that are scanned beside X and raw: those whose name promises counts.
COUNT_LAYERS = ("counts", "raw_counts", "raw", "umi", "UMIs", "spliced_counts")
#: What features of each kind are called.
_NOUNS: dict[ModalityKind, str] = {
    "rna": "genes",
    "protein": "proteins",
    "atac": "peaks",
    "other": "features",
}
#: Doubts that only values of genes raise: others are often binary, or no counts at all.
_OF_GENES = frozenset({"E-D10", "E-D11", "E-D15"})


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
    kind
        What the features are: ``"rna"``, or another modality of MuData.
    proteins
        Names of proteins without the suffix of a kit, and the controls among them.
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
    kind: ModalityKind = "rna"
    proteins: ProteinNames | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not any(f.severity == "must mend" for f in self.findings)

    @property
    def text(self) -> str:
        """The whole report, one subject a line."""
        noun = _NOUNS[self.kind]
        lines = [f"{self.name}: {self.n_obs:,} cells, {self.n_vars:,} {noun}"]
        lines += [f"  values   {slot}: {self._of_values(slot)}" for slot in self.values]
        labels = _of_columns(self.labels, "classes")
        donors = _of_columns(self.donors, "values")
        if self.kind == "rna":
            lines.append(f"  genes    {self._of_genes()}")
            lines.append(f"  species  {self._of_species()}")
            lines.append(f"  assay    {', '.join(self.assays) or 'not named'}")
            lines.append(f"  labels   {labels or 'no column found'}")
            lines.append(f"  donors   {donors or 'no column found'}")
        else:
            lines.append(f"  {noun:<8} {self.genes.evidence}")
            lines += [f"  labels   {labels}"] if labels else []
            lines += [f"  donors   {donors}"] if donors else []
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
        plain["findings"] = _findings_as_json(self.findings)
        return {**plain, "ok": self.ok}

    def _of_values(self, slot: str) -> str:
        report = self.values[slot]
        used = "  <- used" if slot == self.slot else ""
        # Centred values are usual for proteins and peaks, and not the work of a scaled matrix.
        centred = self.kind != "rna" and report.form == "scaled"
        return f"{'some negative' if centred else report.form} ({report.evidence}){used}"

    def _of_genes(self) -> str:
        others = [f"{c}: {g.kind}" for c, g in self.name_columns.items()]
        return f"{self.genes.kind} in var_names" + (f"; {', '.join(others)}" if others else "")

    def _of_species(self) -> str:
        said = f"the object says {', '.join(self.species_said)}" if self.species_said else ""
        names = self.genes.evidence if self.species or not said else ""
        return "; ".join(part for part in (self.species, names, said) if part) or "not known"


@dataclass(frozen=True, slots=True)
class MuInspection:
    """What :func:`inspect` found in an object of several modalities.

    Parameters
    ----------
    name
        How the object is called in messages.
    n_obs
        Cells that are in all modalities.
    modalities
        What was found in every modality that holds a matrix.
    used
        Modality that models of genes read, or ``""`` where none can be told.
    notes
        How the cells of the modalities are paired.
    pairing
        What is wrong with the modalities as a whole.
    """

    name: str
    n_obs: int
    modalities: dict[str, Inspection]
    used: str
    notes: tuple[str, ...]
    pairing: tuple[Finding, ...]

    @property
    def n_vars(self) -> int:
        """Features of all modalities."""
        return sum(part.n_vars for part in self.modalities.values())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What must be mended, then what is doubtful, of all modalities."""
        every = [*self.pairing, *(f for part in self.modalities.values() for f in part.findings)]
        return tuple(sorted(every, key=lambda f: f.severity != "must mend"))

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not any(f.severity == "must mend" for f in self.findings)

    @property
    def repairs(self) -> tuple[str, ...]:
        """What is put right when the data are used, in words."""
        parts = self.modalities.items()
        return tuple(f"{m}: {text}" for m, part in parts for text in part.repairs)

    @property
    def arguments(self) -> dict[str, object]:
        """Arguments of ``setup_anndata`` that follow for the modality that is used."""
        return dict(self.modalities[self.used].arguments) if self.used else {}

    @property
    def text(self) -> str:
        """The whole report, one subject a line, one modality after the other."""
        sizes = ", ".join(
            f"{m} ({part.n_vars:,} {_NOUNS[part.kind]})" for m, part in self.modalities.items()
        )
        lines = [f"{self.name}: {self.n_obs:,} cells in all modalities: {sizes or 'none'}"]
        lines += [f"  paired   {note}" for note in self.notes]
        lines += [f"  {f.severity}: {f.problem}" for f in self.pairing]
        if self.used:
            lines.append(f"  used     {self.used}, by models of genes")
        return "\n".join([*lines, *(part.text for part in self.modalities.values())])

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        return {
            "name": self.name,
            "n_obs": self.n_obs,
            "n_vars": self.n_vars,
            "modalities": {m: part.to_json() for m, part in self.modalities.items()},
            "used": self.used,
            "notes": list(self.notes),
            "repairs": list(self.repairs),
            "arguments": self.arguments,
            "findings": _findings_as_json(self.findings),
            "ok": self.ok,
        }


def _findings_as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    return [
        {"severity": f.severity, "code": f.problem.code, "message": str(f.problem)}
        for f in findings
    ]


def _of_columns(columns: tuple[ColumnGuess, ...], what: str) -> str:
    shown = []
    for c in columns[:4]:
        missing = f", {c.n_missing:,} cells without" if c.n_missing else ""
        shown.append(f"{c.name} ({c.n_values:,} {what}{missing})")
    return ", ".join(shown)


@dataclass(frozen=True, slots=True)
class _Meant:
    """The model that cells are meant for, if there is one, and how its genes are matched."""

    features: FeatureSpace | None
    rule: InputRule | None
    min_gene_overlap: float
    duplicates: Literal["error", "sum", "first"]
    gene_map: GeneMap | None
    gene_case: Literal["as is", "upper"]


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

    Returns
    -------
    An :class:`Inspection`, of several modalities a :class:`MuInspection`; problems are in it, not
    raised.

    Raises
    ------
    UsageError, InputDataError
        The named slot does not exist, or a modality is no object of cells (E-U07).
    """
    meant = _Meant(features, rule, min_gene_overlap, duplicates, gene_map, gene_case)
    if holds_modalities(adata):
        name = name or "mdata"
        return _inspect_modalities(adata, layer, use_raw=use_raw, name=name, meant=meant)
    return _inspect_cells(adata, layer, use_raw=use_raw, name=name, meant=meant)


def _inspect_cells(
    adata: AnnData,
    layer: str | None,
    *,
    use_raw: bool,
    name: str | None,
    meant: _Meant,
    kind: ModalityKind = "rna",
) -> Inspection:
    """Look at the cells of one modality."""
    sources = _sources(adata, layer, use_raw=use_raw, name=name)
    collected = _Findings()
    values = {}
    for slot, source in sources.items():
        with collected.collecting():
            values[slot] = inspect_values(source)
    chosen = next((s for s, v in values.items() if v.kind == "counts"), next(iter(sources)))
    source = sources[chosen]
    report = values.get(chosen) if source.n_obs else None
    if report is not None:
        _check_values(report, kind, collected)
    said = organisms(adata.obs, adata.uns)
    _check_shape(adata, source, collected)
    proteins = protein_names(source.var.index) if kind == "protein" else None
    columns: dict[str, GeneNames] = {}
    if kind == "rna":
        genes = describe_gene_names(source.var.index)
        columns = {
            str(c): describe_gene_names(source.var[c]) for c in GENE_ID_COLUMNS if c in source.var
        }
        _check_species(genes, said, source, collected)
    else:
        genes = _described(source.var.index, kind, proteins)
        collected.add("must mend", _unusable_names(source.var.index, kind, source.where))
    repairs: list[str] = []
    if meant.features is None and kind == "rna":
        repairs = _check_genes(source, genes, meant.duplicates, collected)
    if meant.features is not None and meant.rule is not None:
        repairs = _check_for_model(source, report, meant, collected)
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
    )


def _inspect_modalities(
    mdata: MuData | Mapping[str, AnnData],
    layer: str | None,
    *,
    use_raw: bool,
    name: str,
    meant: _Meant,
) -> MuInspection:
    """Look at every modality on its own, and at how their cells are paired."""
    parts = parts_of(mdata, name=name)
    used = _read_by_commands(parts)
    kinds = {m: "rna" if m == used else modality_kind(m, p.var) for m, p in parts.items()}
    model = None if meant.features is None else meant.features.modality
    asked = used if model in {None, "rna"} else next((m for m in kinds if kinds[m] == model), "")
    without = replace(meant, features=None, rule=None)
    collected, found = _Findings(), {}
    for m, part in parts.items():
        named = m == used or not used
        if not _holds_values(part) and not (named and layer is not None):
            collected.add("doubtful", [_no_matrix(f"{name}[{m!r}]")])
            continue
        found[m] = _inspect_cells(
            part,
            layer if named else None,
            use_raw=use_raw and named,
            name=f"{name}[{m!r}]",
            meant=meant if m == asked else without,
            kind=kinds[m],
        )
    if model is not None and asked not in found:
        collected.add("must mend", [_no_such_kind(model, parts, name)])
    notes = stale_tables(mdata, name)
    n_obs = 0
    with collected.collecting():
        if found:
            common, _, said = match_cells({m: parts[m].obs_names for m in found}, name)
            n_obs, notes = len(common), (*notes, *said)
    features = {m: tuple(map(str, parts[m].var_names)) for m in found}
    notes = (*notes, *shared_names(features, name))
    return MuInspection(name, n_obs, found, used if used in found else "", notes, collected.found)


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


def _read_by_commands(parts: Mapping[str, AnnData]) -> str:
    """Return the modality that ``read_cells`` takes for a model of genes, or ``""``."""
    only = next(iter(parts)) if len(parts) == 1 else ""
    return next((n for n in _RNA_NAMES if n in parts), only)


def _holds_values(part: AnnData) -> bool:
    stored = any(key in part.layers for key in COUNT_LAYERS)
    return part.X is not None or part.raw is not None or stored


def _no_matrix(where: str) -> Problem:
    return Problem(
        "E-D27",
        "X is None",
        where,
        why="nothing of this modality is looked at",
        fix="put values into X, or leave the modality out of what a model reads",
    )


def _no_such_kind(kind: str, parts: Iterable[str], name: str) -> Problem:
    noun = next((n for k, n in _NOUNS.items() if k == kind), kind)
    return Problem(
        "E-U60",
        f"no modality holds the {noun} that the model reads",
        name,
        why=f"the modalities are {', '.join(parts)}",
        fix='call the modality of genes "rna"' if kind == "rna" else "pass the modality itself",
    )


def _check_values(report: ValueReport, kind: ModalityKind, found: _Findings) -> None:
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
        found.add("doubtful", [_no_counts(report, _NOUNS[kind])])
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


def _unusable_names(names: pd.Index, kind: ModalityKind, where: str) -> list[Problem]:
    """Features that cannot be told apart or matched by name."""
    noun, text = _NOUNS[kind], names.astype(str)
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


def _check_genes(
    source: AnnDataSource,
    genes: GeneNames,
    duplicates: Literal["error", "sum", "first"],
    found: _Findings,
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


def _check_for_model(
    source: AnnDataSource, report: ValueReport | None, meant: _Meant, found: _Findings
) -> list[str]:
    """Look at genes and values as a model would; return what it would put right."""
    repairs: list[str] = []
    if meant.features is None or meant.rule is None:
        return repairs
    with found.collecting():
        alignment = meant.features.align(
            source.var,
            min_gene_overlap=meant.min_gene_overlap,
            duplicates=meant.duplicates,
            gene_map=meant.gene_map,
            gene_case=meant.gene_case,
            where=source.where,
        )
        repairs.append(alignment.report.text)
    if report is not None:
        with found.collecting():
            repairs.append(query_kind(meant.rule, report).note)
    return repairs


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
