"""Tasks of mixes: one training, scored on every evaluation set, cell type and donor."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from episome.benchmark import LABEL, Case, Outcome, Task, call_scores
from episome.data import log_counts, variable_genes
from episome.metrics import macro_f1
from episome_datamix.coverage import CoverageOf
from episome_datamix.mixing import CORPUS, EVALUATION, MIX_DONOR, TYPE
from episome_datamix.pools import NO_TYPE, TERM
from episome_datamix.scale import mean_molecules
from episome_datamix.scores import cell_correlations, mean_of, reconstruction_r2

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.benchmark import ResultStore
    from episome.report import Part

#: Between the name of an evaluation set and a part of it.
PART = " | "
#: Begins what is scored without the model: the mean of the training cells.
FLOOR = "mean of training"
#: Cells below which a type or donor has no row of its own.
_FEWEST = 20


class MixTask(Task):
    """What tasks of mixes have in common."""

    needs_labels = False
    defaults: ClassVar[dict[str, Any]] = {
        "n_top_genes": 1000,
        "n_samples": 0,
        "coverage": True,
        "keep": "",
    }

    def columns(self, options: dict[str, Any]) -> Sequence[str]:
        """Return the columns of mixes and evaluation sets."""
        return (CORPUS, EVALUATION, TYPE, TERM, MIX_DONOR)

    def parts(self, case: Case) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield the name and the test rows of every evaluation set."""
        of = case.truth[EVALUATION].astype(str).to_numpy()
        for name in dict.fromkeys(of):
            yield name, np.flatnonzero(of == name)

    def coverage(self, case: Case) -> CoverageOf | None:
        """Return what measures coverage by the training cells of a case."""
        if not case.options["coverage"]:
            return None
        seed = int(case.rng("coverage").integers(2**31))
        return CoverageOf(case.train, case.train.obs[TYPE].astype(str).tolist(), seed=seed)

    def covered(
        self, measure: CoverageOf | None, cells: AnnData, types: Sequence[str]
    ) -> dict[str, float]:
        """Return shares that training covers, by name of the metric."""
        if measure is None:
            return {}
        found = measure(cells, types)
        return {
            "coverage_cells": found.cells,
            "coverage_types": found.types,
            "coverage_genes": found.genes,
        }

    def sections(self, store: ResultStore, study: str) -> Mapping[str, Sequence[Part]]:
        """Return heat maps, tests, coverage and curves of a plan."""
        from episome_datamix.sections import mix_sections

        return mix_sections(store, study, self.main)

    def kept(self, case: Case, model: Any) -> None:
        """Save the model where the options say so."""
        if case.options["keep"]:
            place = Path(str(case.options["keep"])) / case.entry.name / f"seed {case.seed}"
            model.save(place / case.model.shown, overwrite=True)


class MixReconstructionTask(MixTask):
    """Reconstruction of cells that no corpus holds, by models of any mix.

    Conditions: every evaluation set, its cell types and donors of 20 cells and more
    (``"marrow | type: B cell"``), and ``"mean of training | marrow"``: the profile that all cells
    would have if nothing but the mean of the training cells were known. ``r2`` is the mean over
    cells of the squared correlation with log1p of 10,000 molecules, over the ``n_top_genes`` genes
    that vary most in the evaluation set; ``r`` the correlation itself, ``rank_r`` that of ranks,
    ``constant`` the share of cells without one, ``genes`` the share of the genes that the model
    gives a value for.
    """

    name = "mix-reconstruction"
    capability = "reconstruction"
    metrics: ClassVar[dict[str, bool]] = {
        "r2": True,
        "r": True,
        "rank_r": True,
        "constant": False,
        "genes": True,
        "n_cells": True,
        "coverage_cells": True,
        "coverage_types": True,
        "coverage_genes": True,
    }
    main = "r2"

    def run(self, case: Case) -> Outcome:
        """Train once, and score every evaluation set."""
        model = case.fitted(labels=False)
        self.kept(case, model)
        measure, profile = self.coverage(case), np.log1p(mean_molecules(case.train.X))
        scores: dict[str, dict[str, float]] = {}
        for name, rows in self.parts(case):
            cells, truth = case.test[rows].copy(), case.truth.iloc[rows]
            types = truth[TYPE].astype(str)
            genes = _variable(cells, int(case.options["n_top_genes"]))
            with case.timed("predict"):
                table, share = self._scored(case, model, cells, genes)
            scores[name] = {**_summary(table), "genes": share, "n_cells": float(len(rows))}
            scores[name] |= self.covered(measure, cells, types.tolist())
            scores[f"{FLOOR}{PART}{name}"] = _of_profile(cells, genes, profile)
            for kind, values in (("type", types), ("donor", truth[MIX_DONOR])):
                scores |= _by_group(table, values, f"{name}{PART}{kind}: ")
        return Outcome(scores)

    def _scored(
        self, case: Case, model: Any, cells: AnnData, genes: list[str]
    ) -> tuple[pd.DataFrame, float]:
        known = set(model.features.ids)
        chosen = [g for g in genes if g in known]
        seed = int(case.rng("draws").integers(2**31))
        draws = int(case.options["n_samples"])
        more = {"n_samples": draws, "seed": seed} if draws and _draws(model) else {}
        found = reconstruction_r2(model, cells, genes=tuple(chosen), min_gene_overlap=0.0, **more)
        return found.cells, len(found.genes) / max(len(genes), 1)


class MixAnnotationTask(MixTask):
    """Types of cells that no corpus holds, by models of any mix.

    Conditions: every evaluation set. Cells of types that training lacks cannot be called right,
    and count: ``f1_macro`` is over the types of the evaluation set, ``f1_macro_known`` over those
    of them that training has.
    """

    name = "mix-annotation"
    metrics: ClassVar[dict[str, bool]] = {
        "f1_macro": True,
        "f1_macro_known": True,
        "accuracy": True,
        "n_cells": True,
        "coverage_cells": True,
        "coverage_types": True,
        "coverage_genes": True,
    }
    main = "f1_macro"

    def run(self, case: Case) -> Outcome:
        """Train once, and call the cells of every evaluation set."""
        train = case.train.copy()
        # Whatever the data set calls a label, types of mixes are in a column of their own.
        train.obs[LABEL] = train.obs[TYPE].astype(str).to_numpy()
        model = case.fitted(train[train.obs[LABEL] != NO_TYPE].copy())
        self.kept(case, model)
        measure = self.coverage(case)
        scores: dict[str, dict[str, float]] = {}
        for name, rows in self.parts(case):
            cells = case.test[rows].copy()
            types = case.truth[TYPE].iloc[rows].astype(str).to_numpy()
            with case.timed("predict"):
                shares = model.predict_proba(cells)
            labelled = types != NO_TYPE
            scores[name] = {"n_cells": float(labelled.sum())}
            scores[name] |= _called(shares[labelled], types[labelled])
            scores[name] |= self.covered(measure, cells, types.tolist())
        return Outcome(scores)


def _called(shares: pd.DataFrame, truth: NDArray[np.object_]) -> dict[str, float]:
    calls = shares.columns.to_numpy(dtype=str)[shares.to_numpy().argmax(axis=1)]
    known = np.isin(truth.astype(str), shares.columns.to_numpy(dtype=str))
    found = {
        "f1_macro": float(macro_f1(truth.astype(str), calls)),
        "accuracy": float((calls == truth.astype(str)).mean()),
    }
    if known.any():
        inner = call_scores(shares[known], truth[known].astype(str))
        found["f1_macro_known"] = inner["f1_macro"]
    return found


def _of_profile(
    cells: AnnData, genes: list[str], profile: NDArray[np.float64]
) -> dict[str, float]:
    """Scores of one profile for all cells."""
    at = cells.var_names.get_indexer(genes)
    measured = log_counts(cells.X)[:, at].toarray()
    return _summary(cell_correlations(np.broadcast_to(profile[at], measured.shape), measured))


def _summary(table: pd.DataFrame) -> dict[str, float]:
    found = {name: mean_of(table[name]) for name in ("r2", "r", "rank_r")}
    return {**found, "constant": float(table["r2"].isna().mean())}


def _by_group(table: pd.DataFrame, groups: pd.Series, head: str) -> dict[str, dict[str, float]]:
    """Scores of every group of cells that is large enough."""
    values = groups.astype("object").to_numpy()
    found = {}
    for name in sorted({str(v) for v in values if v is not None and v == v and v != NO_TYPE}):
        rows = values.astype(str) == name
        if rows.sum() >= _FEWEST:
            scores = _summary(table[rows])
            found[f"{head}{name}"] = {**scores, "n_cells": float(rows.sum())}
    return found


def _variable(cells: AnnData, n_top_genes: int) -> list[str]:
    """Genes that vary most in an evaluation set: the same for all models and mixes."""
    if not n_top_genes or n_top_genes >= cells.n_vars:
        return list(cells.var_names)
    return list(cells.var_names[variable_genes(log_counts(cells.X), n_top_genes)])


def _draws(model: Any) -> bool:
    """Whether a model can be asked for draws of its posterior."""
    return "n_samples" in inspect.signature(model.get_normalized_expression).parameters
