"""What looking at cells found: the records, as text and as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from episome.data._alignment import AlignmentReport
    from episome.data._columns import ColumnGuess
    from episome.data._gene_names import GeneNames
    from episome.data._proteins import ModalityKind, ProteinNames
    from episome.data._values import ValueReport
    from episome.errors import Problem

Severity: TypeAlias = Literal["must mend", "doubtful"]

#: What features of each kind are called.
NOUNS: dict[ModalityKind, str] = {
    "rna": "genes",
    "protein": "proteins",
    "atac": "peaks",
    "other": "features",
}
#: Cell types that the text names at most.
MAX_LOST = 10


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
        Columns of ``var`` with other names, what those look like, and which are repeated.
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
    alignment
        How the genes met those of the model that the cells are meant for.
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
    alignment: AlignmentReport | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended."""
        return not any(f.severity == "must mend" for f in self.findings)

    @property
    def lost(self) -> dict[str, float] | None:
        """Share of the model's weight that missing genes carry, by cell type, largest first.

        ``None`` where no model was given, or it does not say how much its genes weigh.
        """
        known = None if self.alignment is None else self.alignment.lost
        return None if known is None else dict(known)

    @property
    def weight(self) -> float | None:
        """Share of the model's weight that the found genes carry, mean over cell types."""
        return None if self.alignment is None else self.alignment.weight

    @property
    def text(self) -> str:
        """The whole report, one subject a line."""
        noun = NOUNS[self.kind]
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
        lines += [f"  weight   {text}" for text in self._of_weight()]
        for finding in self.findings:
            lines.append(f"  {finding.severity}: {finding.problem}")
        if self.ok:
            lines.append("  nothing must be mended")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        plain = asdict(self)
        del plain["alignment"]
        plain["values"] = {
            slot: {**asdict(v), "kind": v.kind, "form": v.form, "evidence": v.evidence}
            for slot, v in self.values.items()
        }
        plain["findings"] = _findings_as_json(self.findings)
        return {**plain, "lost": self.lost, "weight": self.weight, "ok": self.ok}

    def _of_values(self, slot: str) -> str:
        report = self.values[slot]
        used = "  <- used" if slot == self.slot else ""
        # Centred values are usual for proteins and peaks, and not the work of a scaled matrix.
        centred = self.kind != "rna" and report.form == "scaled"
        return f"{'some negative' if centred else report.form} ({report.evidence}){used}"

    def _of_genes(self) -> str:
        others = [f"{c}: {g.kind}{_of_repeated(g)}" for c, g in self.name_columns.items()]
        return f"{self.genes.kind} in var_names" + (f"; {', '.join(others)}" if others else "")

    def _of_species(self) -> str:
        said = f"the object says {', '.join(self.species_said)}" if self.species_said else ""
        names = self.genes.evidence if self.species or not said else ""
        return "; ".join(part for part in (self.species, names, said) if part) or "not known"

    def _of_weight(self) -> list[str]:
        """Say what is left of the model's weight where some is lost, and who loses most."""
        if self.weight is None or not any((self.lost or {}).values()):
            return []
        return [f"{self.weight:.1%} of the model's weight is left", *self._who_loses()]

    def _who_loses(self) -> list[str]:
        """Return the cell types that lose most as rows of a table with its heading."""
        # What rounds to no percent is left out, as it is in the report of the alignment.
        worst = [(n, f"{s:.0%}") for n, s in (self.lost or {}).items() if s >= 0.005]
        if not worst:
            return []
        width = max(len(name) for name, _ in worst[:MAX_LOST])
        rows = [f"  {name:<{width}} {share:>4}" for name, share in worst[:MAX_LOST]]
        more = len(worst) - len(rows)
        return ["most is lost for", *rows, *([f"  and {more:,} more"] if more > 0 else [])]


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
    def lost(self) -> dict[str, float] | None:
        """Share of the model's weight that missing features carry; see :class:`Inspection`."""
        every = (part.lost for part in self.modalities.values())
        return next((found for found in every if found is not None), None)

    @property
    def text(self) -> str:
        """The whole report, one subject a line, one modality after the other."""
        sizes = ", ".join(
            f"{m} ({part.n_vars:,} {NOUNS[part.kind]})" for m, part in self.modalities.items()
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
            "lost": self.lost,
            "findings": _findings_as_json(self.findings),
            "ok": self.ok,
        }


def _findings_as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    return [
        {"severity": f.severity, "code": f.problem.code, "message": str(f.problem)}
        for f in findings
    ]


def _of_repeated(genes: GeneNames) -> str:
    """Say which names do not tell genes apart: a model that goes by them refuses the file."""
    if not genes.n_repeated:
        return ""
    more = ", ..." if genes.n_repeated > len(genes.repeated) else ""
    return f" ({genes.n_repeated:,} repeated: {', '.join(genes.repeated)}{more})"


def _of_columns(columns: tuple[ColumnGuess, ...], what: str) -> str:
    shown = []
    for c in columns[:4]:
        missing = f", {c.n_missing:,} cells without" if c.n_missing else ""
        shown.append(f"{c.name} ({c.n_values:,} {what}{missing})")
    return ", ".join(shown)
