"""What a corpus is to hold, decided before anything is written: cells, genes, columns, order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome import settings
from episome.data._corpus_columns import Column, kind_of_column, merge_columns, texts_of
from episome.data._corpus_curate import CellFacts, Curation, cell_facts, curate
from episome.data._corpus_names import INPUT_COLUMN, unique_names
from episome.data._gene_union import join_genes
from episome.data._keys import CELLXGENE_DONOR, ONTOLOGY_SUFFIX
from episome.data._source import columns_of
from episome.errors import InputDataError
from episome.io._corpus import CORPUS_VERSION

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from episome.data._corpus_columns import ColumnKind
    from episome.data._corpus_inputs import CheckedInput, Condition, CorpusInput
    from episome.data._source import CellSource

_TERMS = ("cell_type", "assay", "disease", "sex", "tissue", "development_stage", "organism")
#: Columns of the CELLxGENE schema, kept where all inputs have them.
SCHEMA_COLUMNS = (
    *(name for term in _TERMS for name in (term, term + ONTOLOGY_SUFFIX)),
    "donor_id",
    "dataset_id",
    "tissue_general",
    "tissue_type",
    "suspension_type",
    "is_primary_data",
)
#: Cells of a shard, unless that makes more than this many files that are open at once.
SHARD_CELLS, MOST_SHARDS = 131_072, 512


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """How a corpus is made.

    Parameters
    ----------
    labels_key, donor_keys
        Columns with labels and donors; recorded for whoever trains.
    columns
        Further columns to keep; default those of the CELLxGENE schema that all inputs have.
    where
        Conditions that every cell must meet.
    curation
        Rules that choose cells by kind, number and donors.
    join
        ``"outer"`` keeps the genes of any input, ``"inner"`` those of all.
    duplicates
        ``"sum"`` adds up genes of one name.
    min_gene_overlap
        Smallest share of its genes that an input must have in common with the others.
    seed
        Of the order; default ``episome.settings.seed``.
    shard_cells
        Cells in a file; default 131,072.
    max_memory
        Bytes that a block of cells may take while it is read; about four of them are in use.
    """

    labels_key: str | None = None
    donor_keys: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    where: tuple[Condition, ...] = ()
    curation: Curation = Curation()
    join: Literal["outer", "inner"] = "outer"
    duplicates: Literal["error", "sum"] = "error"
    min_gene_overlap: float = 0.5
    seed: int | None = None
    shard_cells: int | None = None
    max_memory: int = 256 << 20

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that every input must have."""
        named = (self.labels_key, *self.donor_keys, *(self.columns or ()))
        wanted = [*named, *(c.column for c in self.where), *self.curation.columns]
        return tuple(dict.fromkeys(c for c in wanted if c is not None))


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """An input, the cells that are taken from it, and where its genes go.

    ``rows`` are row numbers, int64; ``targets`` the gene of the corpus for every gene, or -1.
    """

    source: CorpusInput
    checked: CheckedInput
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """Everything that decides the bytes of a corpus."""

    inputs: tuple[PlannedInput, ...]
    genes: dict[str, list[str]]
    measured: NDArray[np.bool_]
    columns: tuple[Column, ...]
    options: CorpusOptions
    seed: int
    notes: tuple[str, ...]

    @property
    def n_obs(self) -> int:
        """Cells of the corpus."""
        return sum(len(i.rows) for i in self.inputs)

    @property
    def n_vars(self) -> int:
        """Genes of the corpus."""
        return len(self.genes["id"])

    @property
    def shard_cells(self) -> int:
        """Cells in a shard."""
        most = -(-self.n_obs // MOST_SHARDS)
        return self.options.shard_cells or max(SHARD_CELLS, most)

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.n_obs // self.shard_cells)

    @property
    def disk(self) -> int:
        """About how many bytes the corpus will take, rather more than less."""
        stored = sum(
            i.checked.n_stored * len(i.rows) / max(i.checked.n_obs, 1) for i in self.inputs
        )
        columns = sum(c.dtype.itemsize for c in self.columns)
        return int(2.3 * stored + self.n_obs * (16 + 40 + columns) + 40 * self.n_vars)

    def order(self) -> NDArray[np.int64]:
        """Return the place in the corpus of every cell of the inputs, int64 of shape (n_obs,)."""
        rng = np.random.default_rng(settings.stream_seed("corpus", self.seed))
        return rng.permutation(self.n_obs)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the bytes; the same plan makes the same corpus."""
        facts = {
            "format": CORPUS_VERSION,
            "inputs": [
                (i.checked.name, i.checked.sha256, i.checked.layer, i.checked.use_raw)
                for i in self.inputs
            ],
            "rows": [hashlib.sha256(i.rows.tobytes()).hexdigest() for i in self.inputs],
            "genes": self.genes,
            "targets": [hashlib.sha256(i.targets.tobytes()).hexdigest() for i in self.inputs],
            "columns": [c.to_json() for c in self.columns],
            "keys": (self.options.labels_key, self.options.donor_keys),
            "order": (self.seed, self.shard_cells),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class _Seen:
    """What one reading of the tables of an input gave."""

    wanted: NDArray[np.bool_]
    var: pd.DataFrame
    columns: dict[str, tuple[ColumnKind, set[str]]]
    facts: CellFacts | None = None
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers of the cells that are taken."""
        return np.flatnonzero(self.wanted).astype(np.int64)


def plan_corpus(
    inputs: Sequence[CorpusInput], checked: Sequence[CheckedInput], options: CorpusOptions
) -> CorpusPlan:
    """Decide what a corpus of checked inputs holds; only the tables of the inputs are read.

    Raises
    ------
    InputDataError, GeneMatchError
        No cell meets the conditions (E-D57), inputs have too few genes in common (E-G25), or a
        column is of several kinds (E-L36).
    """
    used = [
        replace(one, layer=c.layer, use_raw=c.use_raw)
        for one, c in zip(inputs, checked, strict=True)
    ]
    seen = []
    for one in used:
        with one.opened() as source:
            seen.append(_tables(source, options))
    if not any(s.wanted.any() for s in seen):
        raise _no_cells(options, sum(c.n_obs for c in checked))
    lost = _curated(seen, options.curation)
    names = [c.name for c in checked]
    genes = join_genes(
        [(s.var, name) for s, name in zip(seen, names, strict=True)],
        join=options.join,
        duplicates=options.duplicates,
        min_gene_overlap=options.min_gene_overlap,
    )
    targets = [a.columns for a in genes.alignments]
    measured = np.zeros((len(used), len(genes.space)), dtype=bool)
    for row, target in zip(measured, targets, strict=True):
        row[target[target >= 0]] = True
    parts = zip(used, checked, seen, targets, strict=True)
    other = {k: list(v) for k, v in genes.space.other.items()}
    return CorpusPlan(
        inputs=tuple(PlannedInput(u, c, s.rows, t) for u, c, s, t in parts),
        genes={"id": list(genes.space.ids), **other},
        measured=measured,
        columns=_columns(seen, names, options),
        options=options,
        seed=settings.seed if options.seed is None else options.seed,
        notes=(*lost, *_notes(checked, seen, measured), *genes.notes),
    )


def _tables(source: CellSource, options: CorpusOptions) -> _Seen:
    wanted = np.ones(source.n_obs, dtype=bool)
    for condition in options.where:
        wanted &= condition.holds(source)
    facts: CellFacts | None = None
    masks: dict[str, NDArray[np.bool_]] = {}
    if options.curation.is_on:
        donors = options.donor_keys or (CELLXGENE_DONOR,)
        facts, masks = cell_facts(source, options.curation, donors, wanted)
    text = {options.labels_key, *options.donor_keys}
    return _Seen(
        wanted=wanted,
        facts=facts,
        masks=masks,
        var=source.var,
        columns={
            c: _kept(source.obs_column(c), as_text=c in text)
            for c in _wanted_columns(source, options)
        },
    )


def _curated(seen: Sequence[_Seen], curation: Curation) -> list[str]:
    """Apply the rules to all inputs together; return what each of them lost."""
    facts = [s.facts for s in seen if s.facts is not None]
    if not facts:
        return []
    lines = curate(facts, [s.masks for s in seen], curation)
    for one, fact in zip(seen, facts, strict=True):
        one.wanted = fact.wanted
    return lines


def _kept(series: pd.Series, *, as_text: bool) -> tuple[ColumnKind, set[str]]:
    kind: ColumnKind = "text" if as_text else kind_of_column(series)
    return kind, texts_of(series) if kind == "text" else set()


def _wanted_columns(source: CellSource, options: CorpusOptions) -> list[str]:
    named = [options.labels_key, *options.donor_keys]
    more = SCHEMA_COLUMNS if options.columns is None else options.columns
    held = set(columns_of(source))
    return [c for c in dict.fromkeys([*named, *more]) if c is not None and c in held]


def _columns(
    seen: Sequence[_Seen], names: Sequence[str], options: CorpusOptions
) -> tuple[Column, ...]:
    wanted = [c for c in seen[0].columns if all(c in s.columns for s in seen)]
    tables = {c: [(n, *s.columns[c]) for n, s in zip(names, seen, strict=True)] for c in wanted}
    inputs: list[tuple[str, ColumnKind, set[str]]] = [
        (n, "text", {n}) for n in unique_names(names)
    ]
    return merge_columns({**tables, INPUT_COLUMN: inputs})


def _no_cells(options: CorpusOptions, total: int) -> InputDataError:
    shown = [f"{c.column}{'!=' if c.unlike else '='}{'|'.join(c.values)}" for c in options.where]
    return InputDataError(
        "E-D57",
        "no cell meets the conditions",
        where=" and ".join(shown) or None,
        count=0,
        total=total,
        why="a corpus without cells is of no use",
        fix="look at the values of these columns with `episome check`, or leave a condition out",
    )


def _notes(
    checked: Sequence[CheckedInput],
    seen: Sequence[_Seen],
    measured: NDArray[np.bool_],
) -> list[str]:
    notes = []
    for one, found, row in zip(checked, seen, measured, strict=True):
        slot = "raw.X" if one.use_raw else f"layers[{one.layer!r}]" if one.layer else "X"
        notes.append(
            f"{one.name}: {len(found.rows):,} of {one.n_obs:,} cells, counts of {slot}, "
            f"{int(row.sum()):,} of {measured.shape[1]:,} genes"
        )
    return notes


def plain_inputs(plan: CorpusPlan) -> list[dict[str, Any]]:
    """Return where the cells came from, for the manifest."""
    return [
        {
            "name": i.checked.name,
            "sha256": i.checked.sha256,
            "n_obs": i.checked.n_obs,
            "n_vars": i.checked.n_vars,
            "n_kept": len(i.rows),
            "n_measured": int(row.sum()),
            "layer": i.checked.layer,
            "use_raw": i.checked.use_raw,
        }
        for i, row in zip(plan.inputs, plan.measured, strict=True)
    ]
