"""One name for one cell type in several references: a table of the user, terms, synonyms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from episome.ontology import cell_ontology

if TYPE_CHECKING:
    from episome.ontology import CellOntology

COLUMNS = ("reference", "label", "n_cells", "term", "merged")


def common_labels(
    counts: Mapping[str, Mapping[str, int]],
    *,
    names: Mapping[str, str] | None = None,
    terms: Mapping[str, Mapping[str, str]] | None = None,
    by_term: bool = False,
    ontology: CellOntology | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Bring the labels of several references to common names.

    Parameters
    ----------
    counts
        Cells of every label, by the name of the reference.
    names
        The user's table, label to common name; it wins over terms. Other labels stay.
    terms
        Term of the Cell Ontology of some labels, by the name of the reference.
    by_term
        Give the labels of one term in several references its official name. Terms are the given
        ones, else those of official names and exact synonyms. Two labels of one reference with one
        term are two types to whoever made it, and stay apart in all.
    ontology
        Default: the newest bundled release.

    Returns
    -------
    table
        One row per reference and label: ``reference``, ``label``, ``n_cells``, ``term`` (empty
        where none is known), ``merged`` (the common name).
    report
        Lines that say what was merged, what was not and why, and which labels of one reference
        are above labels of another.
    """
    ontology = cell_ontology() if ontology is None else ontology
    rows, table = [], dict(names or {})
    for reference, labels in counts.items():
        given = (terms or {}).get(reference, {})
        known = list(labels)
        asked = [table.get(label, label) for label in known]
        found = ontology.resolve(asked, term_ids=[given.get(label, "") for label in known])
        # A name of the user's own has no term, what it stands for may have one.
        plain = ontology.resolve(known).term_ids
        terms_of = [a or b for a, b in zip(found.term_ids, plain, strict=True)]
        rows += [
            (reference, label, int(labels[label]), term, name)
            for label, term, name in zip(known, terms_of, asked, strict=True)
        ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    report = []
    if unused := sorted(set(table) - set(frame["label"])):
        report.append(f"names of your table that are no label: {', '.join(unused)}")
    if by_term:
        report += _merge(frame, set(table.values()), ontology)
        report += _above(frame, ontology)
    return frame, report


def _merge(frame: pd.DataFrame, fixed: set[str], ontology: CellOntology) -> list[str]:
    """Give rows of one term one name, in place; return what was done."""
    report = []
    for term, rows in frame[frame["term"] != ""].groupby("term", sort=True):
        said = ", ".join(f"{r.reference}: {r.label}" for r in rows.itertuples())
        # What the user's table names keeps that name.
        own = sorted(set(rows["merged"]) & fixed)
        several = rows.groupby("reference")["merged"].nunique()
        if (several > 1).any():
            which = ", ".join(map(str, several.index[several > 1]))
            report.append(f"{term} is the term of several labels of {which}, not merged: {said}")
            continue
        if len(own) > 1:
            report.append(f"{term} has several names in your table, not merged: {said}")
            continue
        name = own[0] if own else ontology.label(str(term))
        if rows["merged"].nunique() > 1 or set(rows["merged"]) != {name}:
            frame.loc[rows.index, "merged"] = name
            report.append(f"{name} ({term}): {said}")
    return report


def _above(frame: pd.DataFrame, ontology: CellOntology) -> list[str]:
    """Say which labels are above labels of other references: they are not as fine."""
    report = []
    known = frame[frame["term"].isin(set(ontology))]
    for row in known.itertuples():
        below = set(ontology.descendants(row.term))
        finer = known[(known["reference"] != row.reference) & known["term"].isin(below)]
        if len(finer):
            said = ", ".join(f"{r.reference}: {r.label}" for r in finer.itertuples())
            report.append(
                f"{row.label} of {row.reference} is above {said} in the ontology: some of its "
                "cells may be of these types"
            )
    return report
