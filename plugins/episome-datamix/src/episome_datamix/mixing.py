"""Cells of a mix: which rows of which corpora, and the source that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import numpy as np
import pandas as pd
from scipy import sparse

from episome import plugins, settings
from episome.confidence import classes_within
from episome.data import (
    AnnDataSource,
    CellSource,
    FeatureSpace,
    ManyCells,
    cells_where,
    clean_labels,
    existing_columns,
    missing_column,
    open_source,
)
from episome.errors import InputDataError, InputFileError, Problem, UsageError
from episome.ontology import cell_ontology
from episome_datamix.plan import Corpus, Mix, Plan
from episome_datamix.sampling import order_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Columns that cells of mixes and of evaluation sets have.
CORPUS, EVALUATION, TYPE, MIX_DONOR = "mix_corpus", "mix_evaluation", "mix_type", "mix_donor"
TERM = "cell_type_ontology_term_id"
#: Beginning of addresses of mixes.
SCHEME = "mix:"
NO_TYPE = "unknown"
_BLOCK = 8192
#: Mitochondrial genes of human and mouse that code for proteins, by Ensembl identifier.
_MITO = frozenset(
    [
        f"ENSG00000{n}"
        for n in (
            "198888",
            "198763",
            "198804",
            "198712",
            "228253",
            "198899",
            "198938",
            "198840",
            "212907",
            "198886",
            "198786",
            "198695",
            "198727",
        )
    ]
    + [
        f"ENSMUSG00000{n}"
        for n in (
            "064341",
            "064345",
            "064351",
            "064354",
            "064356",
            "064357",
            "064358",
            "064360",
            "065947",
            "064363",
            "064367",
            "064368",
            "064370",
        )
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The cells of a corpus or evaluation set that may be drawn.

    Parameters
    ----------
    name
        Of the corpus.
    corpus
        What it is.
    source
        All of its cells.
    rows
        Those that may be drawn, int64, ascending.
    lost
        How many were left out, by why.
    """

    name: str
    corpus: Corpus
    source: CellSource
    rows: NDArray[np.int64]
    lost: Mapping[str, int]

    def types(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the cell type of rows of the source; ``"unknown"`` where there is none."""
        if self.corpus.labels_key is None:
            return np.full(len(rows), NO_TYPE, dtype=object)
        given = self.source.obs_column(self.corpus.labels_key).iloc[rows]
        found: NDArray[np.object_] = clean_labels(
            given, unlabeled_category=NO_TYPE, unlabeled="keep"
        )
        return found

    def terms(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the term of rows of the source; empty where there is none."""
        key = self.corpus.term_key
        if key is None:
            key = next(iter(existing_columns(self.source, [TERM])), None)
        if key is None:
            return np.full(len(rows), "", dtype=object)
        return self.source.obs_column(key).iloc[rows].astype(str).to_numpy(dtype=object)

    def donors(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the donor of rows of the source, with its study; ``None`` where unknown."""
        if self.corpus.donor_key is None:
            return np.full(len(rows), None, dtype=object)
        given = self.source.obs_column(self.corpus.donor_key).iloc[rows]
        return np.array(
            [None if pd.isna(d) else f"{self.corpus.of}/{d}" for d in given], dtype=object
        )

    def names(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the names of rows of the source, with their study."""
        return np.array(
            [f"{self.corpus.of}/{n}" for n in self.source.obs_names[rows]], dtype=object
        )


class MixedCells:
    """Rows of several sources as one source, on one gene space.

    Parameters
    ----------
    parts
        Pools, and rows of their sources, in the order of the cells.
    features
        The gene space; genes that a source lacks are zero.
    column
        Name of the column that says which pool a cell is of.
    where
        How messages call the cells.
    """

    in_memory = False

    def __init__(
        self,
        parts: Sequence[tuple[Pool, NDArray[np.int64]]],
        features: FeatureSpace,
        *,
        column: str,
        where: str,
    ) -> None:
        self._parts = [(pool, np.asarray(rows, dtype=np.int64)) for pool, rows in parts]
        self._alignments = [
            features.align(
                pool.source.var, min_gene_overlap=0.0, duplicates="sum", where=pool.source.where
            )
            for pool, _ in self._parts
        ]
        self._starts = np.cumsum([0, *(len(rows) for _, rows in self._parts)])
        self.var = pd.DataFrame(index=pd.Index(list(features.ids), dtype=object))
        self.where = where
        self._column = column
        names = [pool.names(rows) for pool, rows in self._parts]
        self.obs_names = pd.Index(np.concatenate([*names, np.empty(0, dtype=object)]))

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return int(self._starts[-1])

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return len(self.var)

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of :meth:`obs_column`."""
        return [self._column, TYPE, TERM, MIX_DONOR]

    def obs_column(self, key: str) -> pd.Series:
        """Return one of ``obs_columns``.

        Raises
        ------
        UsageError
            There is no such column (E-U04).
        """
        of = {TYPE: Pool.types, TERM: Pool.terms, MIX_DONOR: Pool.donors}
        if key == self._column:
            values = [np.full(len(rows), pool.name, dtype=object) for pool, rows in self._parts]
        elif key in of:
            values = [of[key](pool, rows) for pool, rows in self._parts]
        else:
            raise missing_column(key, self.obs_columns, where=self.where)
        joined = np.concatenate([*values, np.empty(0, dtype=object)])
        return pd.Series(joined, index=self.obs_names, name=key)

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Return the counts of rows, CSR float32 (n_rows, n_vars), in their order."""
        asked = np.arange(self.n_obs)[rows] if isinstance(rows, slice) else np.asarray(rows)
        which = np.searchsorted(self._starts, asked, side="right") - 1
        blocks, places = [], []
        for i, (pool, own) in enumerate(self._parts):
            at = np.flatnonzero(which == i)
            if not len(at):
                continue
            wanted = own[asked[at] - self._starts[i]]
            # Sources read rows in ascending order fastest, and each once.
            unique, back = np.unique(wanted, return_inverse=True)
            read = pool.source.read(unique)
            blocks.append(self._alignments[i].apply(sparse.csr_matrix(read))[back])
            places.append(at)
        if not blocks:
            return sparse.csr_matrix((0, self.n_vars), dtype=np.float32)
        order = np.argsort(np.concatenate(places), kind="stable")
        return sparse.csr_matrix(sparse.vstack(blocks)[order], dtype=np.float32)


# --- pools ----------------------------------------------------------------------------------


def pool_of(plan: Plan, name: str, base: Path, *, evaluation: bool = False) -> Pool:
    """Return the cells of a corpus or evaluation set that may be drawn.

    Parameters
    ----------
    plan
        Whose it is.
    name
        Of the corpus, or of the evaluation set.
    base
        Folder that paths are relative to.
    evaluation
        Of the evaluation sets.

    Raises
    ------
    UsageError
        A column is missing (E-U04), or a condition is none (E-U90).
    InputDataError
        No cells are left (E-B06), or no mitochondrial gene is known (E-B05).
    """
    corpus = (plan.evaluation if evaluation else plan.corpora)[name]
    held = () if evaluation else plan.hold_out
    return _pool(name, corpus, json.dumps(plan.to_dict()["qc"]), tuple(held), str(base))


@lru_cache(maxsize=64)
def _pool(name: str, corpus: Corpus, qc: str, hold_out: tuple[str, ...], base: str) -> Pool:
    source = _opened(corpus, base)
    kept = cells_where(source, corpus.where)
    lost = {"where": int((~kept).sum())}
    good = _good_cells(source, json.loads(qc))
    lost["qc"] = int((kept & ~good).sum())
    kept &= good
    found = Pool(name, corpus, source, np.flatnonzero(kept), lost)
    if hold_out:
        held = _held_out(found, hold_out)
        lost["hold_out"] = int(held.sum())
        found = Pool(name, corpus, source, found.rows[~held], lost)
    if not len(found.rows):
        raise InputDataError(
            "E-B06",
            f"no cells are left of {source.n_obs:,}",
            where=name,
            why=", ".join(f"{n:,} by {why}" for why, n in lost.items() if n),
            fix="look at where =, hold_out = and [qc]",
        )
    return found


def _opened(corpus: Corpus, base: str) -> CellSource:
    path = Path(base) / corpus.source
    if not path.exists() and corpus.source in (known := plugins.datasets()):
        spec = known[corpus.source]
        cells = plugins.load_object(spec.target, plugin=spec.plugin)()
        return AnnDataSource(cells, layer=corpus.layer, name=corpus.source)
    return open_source(str(path) if path.exists() else corpus.source, layer=corpus.layer)


def _good_cells(source: CellSource, qc: Mapping[str, Any]) -> NDArray[np.bool_]:
    asked = qc["max_mito"] is not None
    if not asked and not qc["min_counts"] and not qc["min_genes"] and qc["max_counts"] is None:
        return np.ones(source.n_obs, dtype=bool)
    mito = mitochondrial(source.var)
    if asked and not mito.any():
        raise InputDataError(
            "E-B05",
            "max_mito is asked for, and no mitochondrial gene is known",
            where=source.where,
            why="neither symbols (MT-ND1) nor Ensembl identifiers of these genes are there",
            fix="leave max_mito out, or pass cells with these genes",
        )
    good = np.ones(source.n_obs, dtype=bool)
    for start in range(0, source.n_obs, _BLOCK):
        rows = slice(start, min(start + _BLOCK, source.n_obs))
        block = source.read(rows)
        sums = np.asarray(block.sum(axis=1)).ravel()
        good[rows] &= sums >= qc["min_counts"]
        good[rows] &= np.diff(block.indptr) >= qc["min_genes"]
        if qc["max_counts"] is not None:
            good[rows] &= sums <= qc["max_counts"]
        if asked:
            of = np.asarray(block[:, np.flatnonzero(mito)].sum(axis=1)).ravel()
            good[rows] &= of <= qc["max_mito"] * sums
    return good


def mitochondrial(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which genes are mitochondrial, by symbol or Ensembl identifier, bool (n_genes,).

    Parameters
    ----------
    var
        Gene table; its index and all columns of text are looked at.
    """
    found = np.zeros(len(var), dtype=bool)
    columns = [var.index.astype(str).to_series(), *(var[c] for c in var if _is_text(var[c]))]
    for column in columns:
        names = column.astype(str)
        known = names.str.replace(r"\.\d+$", "", regex=True).isin(_MITO)
        found |= (names.str.upper().str.startswith("MT-") | known).to_numpy()
    return found


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _held_out(pool: Pool, hold_out: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return which cells that may be drawn are of held-out types or kinds of them."""
    types = pool.types(pool.rows)
    terms = pool.terms(pool.rows)
    table = pd.DataFrame({"type": types, "term": terms}).drop_duplicates()
    names = table["type"].astype(str).to_list()
    known = [t if str(t).startswith("CL:") else "" for t in table["term"]]
    ontology = cell_ontology()
    resolved = ontology.resolve(names, term_ids=known)
    ids = [t or "" for t in resolved.term_ids]
    mask = np.zeros(len(names), dtype=bool)
    for one in hold_out:
        try:
            mask |= classes_within(names, ids, (one,), ontology)
        except UsageError as error:
            # A corpus need not have every type that is held out.
            if error.problems[0].code != "E-L43":
                raise
    held = set(zip(table["type"][mask], table["term"][mask], strict=True))
    return np.array([pair in held for pair in zip(types, terms, strict=True)], dtype=bool)


# --- genes ----------------------------------------------------------------------------------


def gene_space(plan: Plan, base: Path) -> FeatureSpace:
    """Return the genes that all models of a plan have, in an order that is the same everywhere.

    Parameters
    ----------
    plan
        Whose corpora they are of.
    base
        Folder that paths are relative to.

    Raises
    ------
    InputDataError
        The corpora share no gene (E-B06).
    """
    sources = tuple(pool_of(plan, name, base).source for name in plan.corpora)
    if plan.gene_space not in ("intersection", "union"):
        path = Path(base) / plan.gene_space
        if not path.exists():
            raise InputFileError(
                "E-B08",
                f"there is no list of genes {plan.gene_space!r}",
                where=plan.name,
                fix='gene_space = "intersection", "union", or a file with a gene a line',
            )
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [line.split()[0].strip(",") for line in lines if line.strip()]
        return FeatureSpace.from_var(pd.DataFrame(index=pd.Index(names)), where=str(path))
    join: Any = "inner" if plan.gene_space == "intersection" else "outer"
    if len(sources) == 1:
        var = sources[0].var
    else:
        var = ManyCells(list(sources), join=join, duplicates="sum", min_gene_overlap=0.0).var
    if not len(var):
        raise InputDataError(
            "E-B06",
            "the corpora share no gene",
            where=plan.name,
            why="their names may be of different kinds",
            fix="bring the names of genes to one kind: episome corpus build does",
        )
    # A table of names that are there once, sorted: files in another order give the same space.
    var = var[~var.index.duplicated()].sort_index()
    return FeatureSpace.from_var(var)


# --- mixes ----------------------------------------------------------------------------------


def rows_of_mix(
    plan: Plan, mix: Mix, n_cells: int | None, seed: int, base: Path
) -> list[tuple[Pool, NDArray[np.int64]]]:
    """Return the rows that a mix is made of.

    Of every corpus an order is drawn by the seed, and as many cells are taken from its beginning
    as are wanted: fewer cells are part of more, and the cells of a corpus are the same in every
    mix that takes as many.

    Parameters
    ----------
    plan, mix
        What is mixed.
    n_cells
        Cells of each corpus; ``None``: those of the smallest corpus of the plan.
    seed
        Of the draw.
    base
        Folder that paths are relative to.

    Raises
    ------
    InputDataError
        A corpus has fewer cells than are wanted of it (E-B06).
    """
    pools = {name: pool_of(plan, name, base) for name in plan.corpora}
    wanted = mix.sizes(smallest(plan, base) if n_cells is None else n_cells)
    few = {n: len(pools[n].rows) for n, k in wanted.items() if len(pools[n].rows) < k}
    if few:
        raise InputDataError(
            [
                Problem(
                    "E-B06",
                    f"the corpus {name!r} has {has:,} cells, and {wanted[name]:,} are wanted",
                    where=f"{plan.name}, {mix.name}",
                    why="every mix has as many cells of each corpus, or their number would be "
                    "what is compared",
                    fix="lower n_cells =, or look at where = and [qc]",
                )
                for name, has in few.items()
            ]
        )
    return [
        (pools[name], np.sort(pools[name].rows[_order(plan, name, seed, base)[:k]]))
        for name, k in wanted.items()
    ]


def smallest(plan: Plan, base: Path) -> int:
    """Return the cells of the smallest corpus, over how often a mix takes it.

    Parameters
    ----------
    plan
        The plan.
    base
        Folder that paths are relative to.
    """
    often = dict.fromkeys(plan.corpora, 1.0)
    for mix in plan.mixes:
        if mix.n_cells is None:
            often |= {n: max(often[n], times) for n, times in mix.parts.items()}
    return min(int(len(pool_of(plan, n, base).rows) // often[n]) for n in plan.corpora)


def _order(plan: Plan, name: str, seed: int, base: Path) -> NDArray[np.int64]:
    key = json.dumps(plan.to_dict(), sort_keys=True)
    return _drawn(key, name, seed, str(base))


@lru_cache(maxsize=256)
def _drawn(key: str, name: str, seed: int, base: str) -> NDArray[np.int64]:
    plan = Plan.from_dict(json.loads(key))
    pool = pool_of(plan, name, Path(base))
    rng = np.random.default_rng(settings.stream_seed(f"mix-{name}", seed))
    return order_of(pool.source, pool.rows, pool.types(pool.rows), plan.sampling, rng)


# --- addresses ------------------------------------------------------------------------------


def address(plan_file: Path, *, mix: str = "", n_cells: int | None = None, seed: int = 0) -> str:
    """Return the address of the cells of a mix, or without one of all evaluation sets.

    Parameters
    ----------
    plan_file
        Of :func:`write_plan`.
    mix, n_cells, seed
        Which cells.
    """
    place = quote(str(plan_file), safe="/")
    asked = f"plan={place}&mix={quote(mix)}&n={n_cells or ''}&seed={seed}"
    return f"{SCHEME}{asked}&data={{data}}"


def cells_at(text: str) -> MixedCells:
    """Open an address of :func:`address`; the source of this plugin.

    Parameters
    ----------
    text
        The address.

    Raises
    ------
    UsageError
        It is no such address (E-U27).
    """
    # The folder comes last and as it is: whatever its name holds, it ends the address.
    named, _, folder = text.removeprefix(SCHEME).partition("&data=")
    asked = {k: v[0] for k, v in parse_qs(named).items()}
    try:
        plan = Plan.from_dict(json.loads(Path(asked["plan"]).read_text(encoding="utf-8")))
        base, seed = Path(folder or "."), int(asked.get("seed", 0))
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(
            "E-U27",
            f"{text!r} is no address of a mix",
            why=str(error),
            fix="addresses are made by episome_datamix.run(plan)",
        ) from error
    features = gene_space(plan, base)
    if "mix" not in asked:
        pools = [pool_of(plan, name, base, evaluation=True) for name in plan.evaluation]
        parts = [(p, p.rows) for p in pools]
        where = f"evaluation sets of {plan.name}"
        return MixedCells(parts, features, column=EVALUATION, where=where)
    mix = next(m for m in plan.mixes if m.name == asked["mix"])
    parts = rows_of_mix(plan, mix, int(asked["n"]) if "n" in asked else None, seed, base)
    where = f"{plan.name}, {mix.name}, seed {seed}"
    return MixedCells(parts, features, column=CORPUS, where=where)


def write_plan(plan: Plan) -> Path:
    """Keep a plan where addresses find it, and return the file.

    Parameters
    ----------
    plan
        The plan.
    """
    place = settings.cache_folder("mix-plans") / f"{plan.digest}.json"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(f".{id(plan)}.part")
        draft.write_text(json.dumps(plan.to_dict(), indent=1), encoding="utf-8")
        draft.replace(place)
    return place


def require_no_overlap(plan: Plan, base: Path) -> None:
    """Refuse cells or donors that are in a corpus and in an evaluation set.

    By name and study here; the benchmark also compares the values of all cells, run by run.

    Parameters
    ----------
    plan
        The plan; what it allows by name is not looked for.
    base
        Folder that paths are relative to.

    Raises
    ------
    InputDataError
        Something is in both (E-L20).
    """
    problems = []
    for kind, of in (("barcode", Pool.names), ("donor", Pool.donors)):
        if kind in plan.allow:
            continue
        seen = {
            n: set(of(p, p.rows)) - {None} for n in plan.corpora for p in [pool_of(plan, n, base)]
        }
        for name in plan.evaluation:
            pool = pool_of(plan, name, base, evaluation=True)
            values = pd.Series(of(pool, pool.rows))
            for corpus, known in seen.items():
                again = values.isin(known)
                if again.any():
                    problems.append(
                        Problem(
                            "E-L20",
                            f"the corpus {corpus!r} and the evaluation set {name!r} share: {kind}",
                            plan.name,
                            int(again.sum()),
                            len(values),
                            [str(v) for v in values[again].unique()[:3]],
                            "a model that knows them is not tested on new ones",
                            "choose cells by where =, or say that it is meant: "
                            f'allow = ["{kind}"]',
                        )
                    )
    if problems:
        raise InputDataError(problems)
