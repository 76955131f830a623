"""Calls at the depth that the evidence supports: probabilities summed up the Cell Ontology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from episome.errors import UsageError
from episome.ontology import ROOT, ClassHierarchy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.ontology import CellOntology

#: What rounding may take from a probability that is reached exactly.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class RollUp:
    """Classes of a model, and the terms above them.

    The probability of a term is the sum over the classes that are a kind of it, so a term is never
    less probable than one below it. A call climbs from the most probable class through terms each
    of which is above the one before, until one is probable enough; the way of a cell does not
    depend on what is wanted, so that its calls for two wanted confidences never contradict each
    other: the surer one is the other, or above it.

    Parameters
    ----------
    names, term_ids
        Of the nodes: first the classes of the model in their order, then the terms above some of
        them, the most specific first. Terms above all classes say nothing and are left out, and
        so is the root. Classes without a term have an empty one.
    n_classes
        Number of classes.
    covers
        bool (n_nodes, n_classes): which classes are a kind of the node.
    above
        bool (n_nodes, n_nodes): ``above[a, b]`` where ``b`` is a next step from ``a``: above it,
        of more classes, with nothing of fewer in between.
    release
        Of the ontology.
    """

    names: tuple[str, ...]
    term_ids: tuple[str, ...]
    n_classes: int
    covers: NDArray[np.bool_]
    above: NDArray[np.bool_]
    release: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: Sequence[str], term_ids: Sequence[str], ontology: CellOntology) -> RollUp:
        """Find the terms above classes.

        Parameters
        ----------
        names
            Classes in the order of the probabilities.
        term_ids
            Their terms; empty where there is none. Obsolete ones stand for their successor, and
            terms that the ontology lacks for nothing.
        ontology
            Where terms are looked up, with the user's own ones.

        Raises
        ------
        UsageError
            No class has a term of the ontology (E-L42).
        """
        now, lines = _lines(term_ids, ontology)
        if not any(now):
            raise UsageError(
                "E-L42",
                "no class of the model has a term of the Cell Ontology",
                count=len(now),
                total=len(now),
                examples=list(names[:3]),
                why="calls are rolled up from term to term",
                fix="train with ontology_term_key=, or with names of the Cell Ontology",
            )
        own = ClassHierarchy(tuple(names), ontology.child_matrix(now)).children
        found = sorted(frozenset().union(*lines) - set(now) - {ROOT})
        terms = np.array(found, dtype=object)
        over = np.array([[t in line for line in lines] for t in found], dtype=bool)
        over = over.reshape(len(found), len(names))
        everything = [bool(row.all()) for row in over]
        content = ontology.information_content(found) if found else np.empty(0)
        order = [i for i in np.lexsort((terms.astype(str), -content)) if not everything[i]]
        covers = np.concatenate([own, over[order]])
        ids = [*now, *terms[order].tolist()]
        shown = [*names, *(ontology.label(t) for t in ids[len(names) :])]
        return cls(
            tuple(shown),
            tuple(ids),
            len(names),
            covers,
            _next_steps(ids, covers, ontology),
            ontology.release,
        )

    def classes_above(self) -> list[tuple[str, list[str]]]:
        """Return the classes that other classes are a kind of, with those others.

        A call that is rolled up to such a class has its name, and does not mean it alone: in the
        Cell Ontology a CD16-positive monocyte may be a kind of CD14-positive monocyte.
        """
        own = self.covers[: self.n_classes] & ~np.eye(self.n_classes, dtype=bool)
        return [
            (self.names[i], [self.names[j] for j in np.flatnonzero(own[i])])
            for i in np.flatnonzero(own.any(axis=1))
        ]

    def probabilities(self, classes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the probability of every node.

        Parameters
        ----------
        classes
            (n_cells, n_classes).

        Returns
        -------
        float64 (n_cells, n_nodes).
        """
        out: NDArray[np.float64] = np.asarray(classes, np.float64) @ self.covers.T
        return np.minimum(out, 1.0)

    def climb(
        self,
        classes: NDArray[np.floating],
        wanted: float,
        *,
        sets: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Return the deepest node that is probable enough, for every cell.

        Parameters
        ----------
        classes
            Calibrated probabilities, (n_cells, n_classes).
        wanted
            Probability that a call needs, above 0 and up to 1.
        sets
            Label sets, bool (n_cells, n_classes): a call has to cover all of its set besides.

        Returns
        -------
        node
            int64 (n_cells,); -1 where no node is probable enough.
        probability
            Of the node, or of the last one that was tried.
        level
            Steps from the class to the node, int64 (n_cells,).
        """
        p = self.probabilities(classes)
        n = len(p)
        node = np.asarray(classes).argmax(axis=1).astype(np.int64)
        level, found = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        reached, todo = p[np.arange(n), node], np.arange(n)
        while len(todo):
            at = node[todo]
            enough = reached[todo] >= wanted - _ROUNDING
            if sets is not None:
                enough &= ~(sets[todo] & ~self.covers[at]).any(axis=1)
            found[todo[enough]] = True
            todo, at = todo[~enough], at[~enough]
            steps = self.above[at]
            ways = steps.any(axis=1)
            todo, steps = todo[ways], steps[ways]
            # Of several ways the most probable; the first of equal ones is the most specific.
            node[todo] = np.where(steps, p[todo], -1.0).argmax(axis=1)
            reached[todo] = p[todo, node[todo]]
            level[todo] += 1
        return np.where(found, node, -1), reached, level


def classes_within(
    names: Sequence[str], term_ids: Sequence[str], types: Sequence[str], ontology: CellOntology
) -> NDArray[np.bool_]:
    """Return which classes are one of some types, or a kind of one.

    Parameters
    ----------
    names, term_ids
        Classes and their terms; empty where there is none.
    types
        Terms, or names of terms or of classes.
    ontology
        Where they are looked up.

    Returns
    -------
    bool (n_classes,).

    Raises
    ------
    UsageError
        No class is a kind of a type (E-L43).
    """
    now, lines = _lines(term_ids, ontology)
    mask = np.zeros(len(names), dtype=bool)
    own = dict(zip(names, now, strict=True))
    for wanted in types:
        named = own.get(wanted) or ontology.resolve([wanted]).term_ids[0]
        found = wanted if wanted in ontology else named
        term = ontology.current(found) if found in ontology else None
        kinds = [term in line or name == wanted for name, line in zip(names, lines, strict=True)]
        if not any(kinds):
            shown = f"{', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
            raise UsageError(
                "E-L43",
                f"no class of the model is a kind of {wanted!r}",
                why=f"the classes are {shown}"
                if term is not None
                else f"it is no term of the Cell Ontology, and the classes are {shown}",
                fix="pass a term above some classes, such as CL:0000084, or names of classes",
            )
        mask |= np.array(kinds)
    return mask


def restricted(
    probabilities: NDArray[np.floating], mask: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Return probabilities of cells that are known to be of some classes.

    Parameters
    ----------
    probabilities
        Calibrated, (n_cells, n_classes).
    mask
        Which classes are possible, bool (n_classes,).

    Returns
    -------
    The same shape and type: zero outside, divided by their sum inside. A cell with nothing inside
    has equal probabilities there.
    """
    inside = np.where(mask, probabilities, 0).astype(np.float64)
    total = inside.sum(axis=1, keepdims=True)
    equal = mask / mask.sum()
    shares = np.divide(inside, total, out=np.broadcast_to(equal, inside.shape).copy(),
                       where=total > 0)  # fmt: skip
    found: NDArray[np.floating] = shares.astype(probabilities.dtype)
    return found


def _lines(
    term_ids: Sequence[str], ontology: CellOntology
) -> tuple[list[str], list[frozenset[str]]]:
    """Terms of today, empty where there is none, and each with all that are above it."""
    now = [(ontology.current(t) or "") if t in ontology else "" for t in term_ids]
    above = [frozenset(ontology.ancestors(t, include_self=True) if t else ()) for t in now]
    return now, above


def _next_steps(
    ids: Sequence[str], covers: NDArray[np.bool_], ontology: CellOntology
) -> NDArray[np.bool_]:
    """Where each node may climb to: above it in the ontology, of more classes, nothing between."""
    n = len(ids)
    place: dict[str, list[int]] = {}
    for i, term in enumerate(ids):
        if term:
            place.setdefault(term, []).append(i)
    lines = {t: frozenset(ontology.ancestors(t)) for t in place}
    sizes = covers.sum(axis=1)
    above = np.zeros((n, n), dtype=bool)
    for i, term in enumerate(ids):
        if not term:
            continue
        higher = [
            j
            for t in lines[term]
            # One term under two names of classes is one node: the first.
            for j in place.get(t, [])[:1]
            if sizes[j] > sizes[i]
        ]
        for j in higher:
            # Another way between both, of fewer classes or as specific a name for as many.
            between = any(
                k != j
                and ids[j] in lines[ids[k]]
                and (sizes[k] < sizes[j] or not (covers[j] & ~covers[k]).any())
                for k in higher
            )
            above[i, j] = not between
    return above
