"""Columns beside the calls themselves: votes of clusters, and those of the CELLxGENE schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from episome.errors import Problem, warn
from episome.inference._vote import cluster_votes
from episome.io import SCHEMA_COLUMNS
from episome.ontology import cell_ontology, schema_term

if TYPE_CHECKING:
    from episome.data import Labels

#: What the schema writes for a cell whose type is not known.
UNKNOWN = "unknown"


def completed_calls(
    calls: pd.DataFrame,
    labels: Labels,
    *,
    clusters: pd.Series | None = None,
    cellxgene: bool = False,
) -> pd.DataFrame:
    """Return calls with the columns that were asked for beside them.

    Parameters
    ----------
    calls
        Of ``calls_frame``; not changed.
    labels
        Classes of the model.
    clusters
        Cluster of every cell, in the order of ``calls``: adds the columns of ``cluster_votes``.
    cellxgene
        Add ``cell_type`` and ``cell_type_ontology_term_id``, see :func:`schema_columns`.
    """
    parts = [calls]
    if clusters is not None:
        # Rolled-up calls are no classes, and vote as they are.
        others = sorted(set(calls["label"]) - {*labels.names, labels.unlabeled})
        votes = cluster_votes(
            calls["label"],
            clusters,
            classes=[*labels.names, *others],
            unlabeled=labels.unlabeled,
        )
        parts.append(votes.set_axis(calls.index))
    if cellxgene:
        parts.append(schema_columns(calls["label_ontology_term_id"], labels))
    return pd.concat(parts, axis=1) if len(parts) > 1 else calls


def schema_columns(terms: pd.Series, labels: Labels) -> pd.DataFrame:
    """Return the columns of the CELLxGENE schema 7.1 for the type of a cell.

    Parameters
    ----------
    terms
        Term of every call, empty for calls that are filtered or have none.
    labels
        Classes of the model.

    Returns
    -------
    ``cell_type`` and ``cell_type_ontology_term_id``, indexed as ``terms``: a term of the Cell
    Ontology and its name, or ``unknown``. Obsolete terms are replaced by their successor; those
    that the schema refuses, and terms of other ontologies, are ``unknown``.

    Warns
    -----
    EpisomeWarning
        No class of the model has such a term (E-L30).
    """
    ontology = cell_ontology()
    known = {t: schema_term(t, ontology) for t in _unique([*terms, *labels.term_ids])}
    lacking = [n for n, t in zip(labels.names, labels.term_ids, strict=True) if not known[t]]
    if len(lacking) == len(labels):
        warn(
            Problem(
                "E-L30",
                "classes without a term that the CELLxGENE schema allows",
                where="the model",
                count=len(lacking),
                total=len(labels),
                examples=lacking[:3],
                why="every cell type is written as unknown",
                fix="train with ontology_term_key=, or with names of the Cell Ontology",
            )
        )
    ids = terms.map({t: found or UNKNOWN for t, found in known.items()})
    names = {t: ontology.label(found) if found else UNKNOWN for t, found in known.items()}
    columns = dict(zip(SCHEMA_COLUMNS, (terms.map(names), ids), strict=True))
    return pd.DataFrame(columns, index=terms.index).astype("str")


def _unique(terms: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(str, terms)))
