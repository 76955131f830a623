"""Cells of a mix: which rows of which corpora, and the source that reads them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import numpy as np
import pandas as pd
from scipy import sparse

from episome import settings
from episome.data import FeatureSpace, ManyCells, missing_column
from episome.errors import EpisomeWarning, InputDataError, InputFileError, Problem, UsageError
from episome_datamix.plan import SPACES, Mix, Plan
from episome_datamix.pools import TERM, Pool, pool_of
from episome_datamix.sampling import order_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import Alignment

#: Columns that cells of mixes and of evaluation sets have.
CORPUS, EVALUATION, TYPE, MIX_DONOR = "mix_corpus", "mix_evaluation", "mix_type", "mix_donor"
#: Beginning of addresses of mixes.
SCHEME = "mix:"


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
        # Of genes that are missing a plan warns once, before its runs.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*\[E-G04\]", EpisomeWarning)
            self._alignments = [aligned(features, pool) for pool, _ in self._parts]
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


# --- genes ----------------------------------------------------------------------------------


def aligned(features: FeatureSpace, pool: Pool) -> Alignment:
    """Say which genes of a pool are which of the gene space; warns of many missing (E-G04).

    Parameters
    ----------
    features
        The gene space.
    pool
        Whose genes are looked up.
    """
    source = pool.source
    return features.align(source.var, min_gene_overlap=0.0, duplicates="sum", where=source.where)


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
        The corpora, or they and the evaluation sets, share no gene (E-B06).
    """
    return _gene_space(json.dumps(plan.to_dict(), sort_keys=True), str(base))


@lru_cache(maxsize=16)
def _gene_space(key: str, base: str) -> FeatureSpace:
    """Return the genes of a plan, once a process: every mix and evaluation set asks for them."""
    plan = Plan.from_dict(json.loads(key))
    pools = [pool_of(plan, name, Path(base)) for name in plan.corpora]
    if plan.gene_space == "measured":
        pools += [pool_of(plan, name, Path(base), evaluation=True) for name in plan.evaluation]
    sources = tuple(pool.source for pool in pools)
    if plan.gene_space not in SPACES:
        path = Path(base) / plan.gene_space
        if not path.exists():
            raise InputFileError(
                "E-B08",
                f"there is no list of genes {plan.gene_space!r}",
                where=plan.name,
                fix=f"gene_space is one of {', '.join(SPACES)}, or a file with a gene a line",
            )
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [line.split()[0].strip(",") for line in lines if line.strip()]
        return FeatureSpace.from_var(pd.DataFrame(index=pd.Index(names)), where=str(path))
    join: Any = "outer" if plan.gene_space == "union" else "inner"
    if len(sources) == 1:
        var = sources[0].var
    else:
        var = ManyCells(list(sources), join=join, duplicates="sum", min_gene_overlap=0.0).var
    if not len(var):
        and_sets = " and evaluation sets" if plan.gene_space == "measured" else ""
        raise InputDataError(
            "E-B06",
            f"the {len(sources)} corpora{and_sets} share no gene",
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


def address(plan_file: Path, *, mix: str = "", n_cells: int | None = None) -> str:
    """Return the address of the cells of a mix, or without one of all evaluation sets.

    The benchmark puts the seed of a run, which draws the cells, and the folder of the data in.

    Parameters
    ----------
    plan_file
        Of :func:`write_plan`.
    mix, n_cells
        Which cells.
    """
    asked = f"plan={quote(str(plan_file), safe='/')}"
    if mix:
        asked += f"&mix={quote(mix)}&n={n_cells or ''}&seed={{seed}}"
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
