"""Which class of a model is a kind of which: what scoring with the ontology needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.errors import LabelError, UsageError
from episome.ontology._cells import same_cells
from episome.ontology._identifiers import checked_ids
from episome.ontology._terms import listed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from episome.ontology._ontology import CellOntology

_REFUSED = {
    "E-L27": "true labels that are no class",
    "E-L28": "predicted labels that are neither a class nor unassigned",
}


@dataclass(frozen=True, slots=True, eq=False)
class ClassHierarchy:
    """Classes and which of them is a kind of which.

    Parameters
    ----------
    names
        Class names, each once.
    children
        bool (n_classes, n_classes): ``children[p, c]`` where class ``c`` is ``p`` or a kind of
        it. Reflexive and transitive; copied and made read-only.
    release
        Release of the ontology that it comes from, to record with every score.

    Raises
    ------
    LabelError
        A name twice (E-L24).
    UsageError
        The matrix has another shape, is not boolean, not reflexive, or not transitive (E-U42).

    Examples
    --------
    >>> classes = ClassHierarchy.from_labels(["T cell", "CD4-positive, alpha-beta T cell"])
    >>> classes.children.astype(int).tolist()
    [[1, 1], [0, 1]]
    """

    names: tuple[str, ...]
    children: NDArray[np.bool_]
    release: str = ""

    def __post_init__(self) -> None:
        names = tuple(listed(self.names))
        repeated = pd.Index(names)[pd.Index(names).duplicated()].unique()
        if len(repeated):
            raise LabelError(
                "E-L24",
                "class names repeat",
                count=len(repeated),
                total=len(names),
                examples=[repr(n) for n in repeated],
                fix="name every class once",
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "children", _checked(np.asarray(self.children), len(names)))

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_labels(
        cls,
        names: Sequence[str],
        *,
        term_ids: Sequence[str] | None = None,
        ontology: CellOntology | None = None,
    ) -> ClassHierarchy:
        """Return the hierarchy of cell types by their terms.

        Classes without a term are related to nothing; ``ontology.resolve(names).text`` tells
        which those are.

        Parameters
        ----------
        names
            Class names, or one name.
        term_ids
            Their terms; empty ones are looked for by name.
        ontology
            Default: the newest bundled release.

        Raises
        ------
        LabelError
            A name twice (E-L24); a term that does not exist, or is no identifier (E-L25).
        UsageError
            Not one term per name (E-U41).
        """
        if ontology is None:
            from episome.ontology._bundle import cell_ontology

            ontology = cell_ontology()
        if term_ids is not None:
            term_ids = checked_ids(ontology, term_ids)
        found = ontology.resolve(names, term_ids=term_ids)
        return cls(found.labels, ontology.child_matrix(found.term_ids), ontology.release)

    def codes(self, values: ArrayLike) -> NDArray[np.int64]:
        """Return the position of every value in `names`; -1 for one that is no class."""
        codes, uniques = _factorized(values)
        return _positions(self.names, uniques)[codes]

    def correct(
        self, y_true: ArrayLike, y_pred: ArrayLike, *, unassigned: Sequence[str] = ("unknown",)
    ) -> NDArray[np.object_]:
        """Return predictions in which a kind of the true class counts as the true class.

        A call that is finer than the truth is not wrong, so it becomes the truth
        :cite:p:`fischer2024sctab`; a call that is coarser stays wrong.

        Classes that are kinds of each other are one type under several names. A call that stays
        wrong takes the name that the truth has for its type, so that it counts against the class
        it is of. If the truth has several, it keeps its own where that is one of them, else takes
        the first of them in `names`; if it has none, all calls of the type take the first of
        theirs. A result therefore depends on all cells that are passed.

        Parameters
        ----------
        y_true, y_pred
            Class names, shape (n_cells,). Two series are aligned by the names of their cells, to
            `y_true`.
        unassigned
            Predicted values that stand for no class and stay as they are.

        Returns
        -------
        object (n_cells,); the inputs are not changed.

        Raises
        ------
        LabelError
            True labels that are no class (E-L27), or predicted ones that are neither a class nor
            in `unassigned` (E-L28).
        UsageError
            Different lengths (E-U41) or, in two series, different cells (E-U45).
        """
        y_true, y_pred = same_cells(y_true=y_true, y_pred=y_pred)
        true_codes, true_names = _factorized(y_true)
        pred_codes, pred_names = _factorized(y_pred)
        _same_length(len(true_codes), len(pred_codes))
        true, pred = _positions(self.names, true_names), _positions(self.names, pred_names)
        foreign = (pred < 0) & ~pd.Index(pred_names).isin(listed(unassigned))
        self._refuse("E-L27", true_names, true < 0, true_codes)
        self._refuse("E-L28", pred_names, foreign, pred_codes)
        right = (self.children[np.ix_(true, pred)] & (pred >= 0))[true_codes, pred_codes]
        named = self._in_names_of_truth(true, pred)
        pred_names = np.where(named == pred, pred_names, np.array(self.names, dtype=object)[named])
        return np.where(right, true_names[true_codes], pred_names[pred_codes])

    def correct_codes(
        self, y_true: NDArray[np.integer], y_pred: NDArray[np.integer]
    ) -> NDArray[np.int64]:
        """Return :meth:`correct` for positions in `names`, with the same names of one type.

        Parameters
        ----------
        y_true, y_pred
            Class positions, shape (n_cells,); a negative prediction stands for none and becomes
            -1. Two series are aligned as there.

        Raises
        ------
        LabelError
            True positions outside the classes (E-L27), predicted ones beyond them (E-L28).
        UsageError
            Different lengths (E-U41) or, in two series, different cells (E-U45).
        """
        y_true, y_pred = same_cells(y_true=y_true, y_pred=y_pred)
        true, pred = np.asarray(y_true, np.int64), np.maximum(np.asarray(y_pred, np.int64), -1)
        _same_length(len(true), len(pred))
        self._refuse("E-L27", true, (true < 0) | (true >= len(self)))
        self._refuse("E-L28", pred, pred >= len(self))
        right = self.children[true, pred] & (pred >= 0)
        called = np.flatnonzero(np.bincount(pred + 1)) - 1
        named = np.full(len(self) + 1, -1)
        named[called + 1] = self._in_names_of_truth(np.flatnonzero(np.bincount(true)), called)
        return np.where(right, true, named[pred + 1])

    def _in_names_of_truth(
        self, true: NDArray[np.int64], called: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the class that a wrong call of each called class counts as."""
        of_truth = np.unique(true)
        order = np.concatenate([of_truth, np.setdiff1d(called[called >= 0], of_truth)])
        if not len(order):
            return called
        one_type = self.children[np.ix_(called, order)] & self.children[np.ix_(order, called)].T
        stays = (called < 0) | np.isin(called, of_truth)
        return np.where(stays, called, order[one_type.argmax(axis=1)])

    def _refuse(
        self,
        code: str,
        values: NDArray[np.generic],
        wrong: NDArray[np.bool_],
        codes: NDArray[np.int64] | None = None,
    ) -> None:
        """Refuse wrong values; `codes` says which value each cell has."""
        if not wrong.any():
            return
        cells = wrong if codes is None else wrong[codes]
        raise LabelError(
            code,
            _REFUSED[code],
            count=int(cells.sum()),
            total=len(cells),
            examples=[repr(v) for v in dict.fromkeys(values[wrong].tolist())],
            why=f"the hierarchy has {len(self):,} classes",
            fix="make the hierarchy from all classes, or leave these cells out",
        )


def _checked(children: NDArray[np.generic], n_classes: int) -> NDArray[np.bool_]:
    fix = "K[p, c] is true where c is p or a descendant of it"
    if children.shape != (n_classes, n_classes):
        raise UsageError(
            "E-U42", f"children have shape {children.shape} for {n_classes:,} classes", fix=fix
        )
    if not np.isin(children, (0, 1)).all():
        raise UsageError("E-U42", "children hold values that are neither true nor false", fix=fix)
    matrix = children.astype(np.bool_)
    if not matrix.diagonal().all():
        raise UsageError("E-U42", "a class is not a child of itself in children", fix=fix)
    steps = matrix.astype(np.float32)
    if ((steps @ steps > 0) & ~matrix).any():
        raise UsageError("E-U42", "a child of a child is no child in children", fix=fix)
    matrix.flags.writeable = False
    return matrix


def _same_length(n_true: int, n_pred: int) -> None:
    if n_true != n_pred:
        raise UsageError(
            "E-U41",
            f"{n_true:,} true labels and {n_pred:,} predicted ones",
            fix="pass one of each per cell",
        )


def _factorized(values: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Position of every value among the distinct ones, and those."""
    column = pd.Series(values) if not isinstance(values, pd.Series | pd.Categorical) else values
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    codes, uniques = pd.factorize(column, use_na_sentinel=False)
    return codes.astype(np.int64, copy=False), np.asarray(uniques, dtype=object)


def _positions(names: tuple[str, ...], values: NDArray[np.object_]) -> NDArray[np.int64]:
    index = pd.Index(names, dtype=object)
    found: NDArray[np.int64] = index.get_indexer(pd.Index(values, dtype=object)).astype(np.int64)
    return found
