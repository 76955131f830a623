"""The task that asks what annotators do without the genes that types are known by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from episome.benchmark import LABEL, Case, Outcome, Task, call_scores
from episome.data import FeatureSpace, read_gmt
from episome.errors import InputFileError, UsageError
from episome.models import gene_places

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.benchmark import TaskData

_END = "% of the markers"
_COLUMNS = ("gene", "symbol", "gene_symbol", "official gene symbol", "marker", "gene_id")


class MarkerDeletionTask(Task):
    """Types of unseen cells, where a share of a list of markers is not measured.

    The genes are taken out of training and test cells alike, and every annotator is trained anew.
    Larger shares hold the smaller ones; which genes go first is drawn by the seed. Options:
    ``markers``, a file of the user's (``.gmt``, or ``.csv``, ``.tsv`` with a column of genes, each
    also ``.gz``), by its path in the folder of the data; ``genes``, a list instead; ``shares``.
    """

    name = "marker-deletion"
    metrics: ClassVar[dict[str, bool]] = {
        "f1_macro": True,
        "accuracy": True,
        "balanced_accuracy": True,
        "n_deleted": False,
    }
    main = "f1_macro"
    defaults: ClassVar[dict[str, Any]] = {
        "markers": "",
        "genes": (),
        "shares": (0.0, 0.1, 0.5, 1.0),
    }

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One per share.

        Raises
        ------
        UsageError
            No markers are given, or a share is outside 0 to 1 (E-B09).
        """
        if bool(options["markers"]) == bool(options["genes"]):
            raise UsageError(
                "E-B09",
                "one list of markers is needed",
                where=self.name,
                why="no list comes with the package: which genes are markers is the user's to say",
                fix='pass markers = "markers.gmt" in the folder of the data, or genes = [...]',
            )
        if wrong := [s for s in options["shares"] if not 0 <= s <= 1]:
            raise UsageError(
                "E-B09",
                f"shares holds {wrong[0]!r}",
                where=self.name,
                fix="pass shares between 0 and 1",
            )
        return tuple(f"without {100 * s:g} {_END}" for s in options["shares"])

    def run(self, case: Case) -> Outcome:
        """Train and call without the genes of the condition."""
        found = marker_columns(case)
        share = float(case.condition.split()[1]) / 100
        gone = case.rng("markers").permutation(found)[: round(share * len(found))]
        kept = np.setdiff1d(np.arange(case.train.n_vars), gone)
        model = case.fitted(case.train[:, kept].copy())
        test = case.test[:, kept].copy()
        with case.timed("predict"):
            shares = model.predict_proba(test)
        truth = case.truth[LABEL].to_numpy(dtype=str)
        scores = call_scores(shares, truth, None, None)
        scores = {k: v for k, v in scores.items() if k in self.metrics}
        return Outcome({case.condition: {**scores, "n_deleted": float(len(gone))}})


def marker_columns(case: Case) -> NDArray[np.int64]:
    """Return the columns of the training cells that are markers, sorted.

    Raises
    ------
    UsageError
        No gene of the data is one (E-B09).
    InputFileError
        The list is no such file (E-F07), or no table of genes (E-F22).
    """
    named = case.options["genes"] or read_names(_path_of(case))
    names = tuple(dict.fromkeys(str(n) for n in named))
    features = FeatureSpace.from_var(case.train.var, where=case.entry.name, duplicates="sum")
    places = gene_places(FeatureSpace(names), features)
    ids = [features.ids[i] for i in np.unique(places[places >= 0])]
    found = np.sort(case.train.var_names.get_indexer(pd.Index(ids)))
    found = found[found >= 0].astype(np.int64)
    if not len(found):
        raise UsageError(
            "E-B09",
            "none of the markers is a gene of the data",
            where=case.entry.name,
            count=0,
            total=len(names),
            examples=list(names[:3]),
            fix="pass markers by the names that the data have",
        )
    return found


def _path_of(case: Case) -> Path:
    path = Path(str(case.options["markers"]))
    return path if case.base is None or path.is_absolute() else case.base / path


def read_names(path: Path) -> list[str]:
    """Return the genes of a list of markers.

    Parameters
    ----------
    path
        Gene sets, or a table with a column of genes.

    Raises
    ------
    InputFileError
        There is no such file (E-F07), or no column of genes (E-F22).
    """
    if not path.is_file():
        raise InputFileError(
            "E-F07", "there is no such file", where=str(path), fix="pass the list of markers"
        )
    ends = [s for s in path.suffixes if s != ".gz"]
    if ends[-1:] == [".gmt"]:
        return [gene for genes in read_gmt(path).values() for gene in genes]
    table = pd.read_csv(path, sep="," if ends[-1:] == [".csv"] else "\t")
    lower = {str(c).strip().lower(): c for c in table.columns}
    column = next((lower[c] for c in _COLUMNS if c in lower), None)
    if column is None:
        raise InputFileError(
            "E-F22",
            "the table has no column of genes",
            where=str(path),
            examples=[str(c) for c in table.columns[:3]],
            fix=f"call it one of {', '.join(_COLUMNS)}",
        )
    return [str(g) for g in table[column].dropna()]
