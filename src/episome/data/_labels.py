"""Labels and donors of training cells, as clean strings and integer codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from episome.data._keys import (
    CELLXGENE_LABELS,
    EMPTY_LABELS,
    INDEFINITE_DONORS,
    ONTOLOGY_SUFFIX,
    UNLABELED,
)
from episome.data._source import obs_column
from episome.errors import LabelError, Problem, UsageError, warn
from episome.log import get_logger
from episome.ontology import ClassHierarchy, cell_ontology, nearest_ontology

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.ontology import OwnTerm

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Labels:
    """Classes of a model in the order of its outputs.

    Parameters
    ----------
    names
        Class names, in the order of the columns of every probability matrix.
    term_ids
        Cell Ontology identifier of each class, or an empty string.
    unlabeled
        The category of cells without a label; it is no class.
    ontology_release
        Release of the Cell Ontology that the identifiers were looked up in.
    own_terms
        Terms of the user below it, see ``CellOntology.with_terms``.
    """

    names: tuple[str, ...]
    term_ids: tuple[str, ...]
    unlabeled: str = UNLABELED
    ontology_release: str = ""
    own_terms: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return len(self.names)

    def codes(self, values: NDArray[np.object_]) -> NDArray[np.int64]:
        """Code of every value; ``len(self)`` for the unlabelled category and unknown names."""
        index = pd.Index(self.names)
        found = index.get_indexer(pd.Index(values))
        return np.where(found < 0, len(self), found).astype(np.int64)

    def hierarchy(
        self, also: Iterable[str] = (), *, term_ids: Mapping[str, str] | None = None
    ) -> ClassHierarchy | None:
        """Return which classes are kinds of which others; ``None`` where none has a term.

        The release is the one that the classes were looked up in, or the newest installed one
        where that is no longer there.

        Parameters
        ----------
        also
            Further labels, such as those of a query that is scored. The classes keep their terms.
        term_ids
            Terms of further labels, by label; others are looked up by name.
        """
        ontology = nearest_ontology(self.ontology_release, self.own_terms)
        known, given = set(self.names), term_ids or {}
        more = [t for t in dict.fromkeys(map(str, also)) if t not in known]
        # Where another release is used, a term that it lacks is a class like one without a term.
        mine = [t if t in ontology or not t.startswith("CL:") else "" for t in self.term_ids]
        theirs = [t if t in ontology else "" for t in (given.get(name, "") for name in more)]
        if not any(self.term_ids):
            return None
        terms = [*mine, *ontology.resolve(more, term_ids=theirs).term_ids]
        children = ontology.child_matrix(terms)
        return ClassHierarchy((*self.names, *more), children, ontology.release)


def clean_labels(
    column: pd.Series,
    *,
    unlabeled_category: str = UNLABELED,
    unlabeled: Literal["error", "keep"] = "error",
    where: str = "adata.obs",
) -> NDArray[np.object_]:
    """Return labels as strings; missing ones become ``unlabeled_category`` when kept.

    Integers and booleans become their text; blanks around names are kept.

    Raises
    ------
    LabelError
        Missing labels with ``unlabeled="error"`` (E-L01).
    """
    missing = column.isna().to_numpy()
    if missing.any() and unlabeled == "error":
        raise LabelError(
            "E-L01",
            "missing labels",
            where=f"{where}[{column.name!r}]",
            count=int(missing.sum()),
            total=len(column),
            examples=list(column.index[missing][:3]),
            why="a cell without a label cannot teach a class",
            fix='pass unlabeled="keep" (--unlabeled keep) to leave these cells out of the loss, '
            "or drop them",
        )
    text = column.astype(object).map(_text, na_action="ignore")
    if any(not isinstance(v, str) for v in column.dropna().unique()):
        logger.info("%s[%r]: labels that are no text become text", where, column.name)
    values: NDArray[np.object_] = text.to_numpy(dtype=object).copy()
    values[missing] = unlabeled_category
    return values


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _warn_near_duplicates(values: NDArray[np.object_], where: str) -> None:
    names = pd.Series(pd.unique(values))
    folded = names.str.strip().str.casefold()
    groups = [list(g) for _, g in names.groupby(folded) if len(g) > 1]
    if groups:
        warn(
            Problem(
                "E-L11",
                "labels that differ only by blanks or case and stay separate classes",
                where=where,
                count=len(groups),
                examples=[" / ".join(map(repr, g)) for g in groups],
                fix="write every class one way",
            )
        )


def _warn_empty_names(values: NDArray[np.object_], unlabeled_category: str, where: str) -> None:
    """Say how many labels look like none, and how many are left out as unlabelled."""
    text = pd.Series(values)
    like_none = text.str.strip().str.casefold().isin(EMPTY_LABELS) & (text != unlabeled_category)
    if like_none.any():
        warn(
            Problem(
                "E-L02",
                "labels that look like none are classes",
                where=where,
                count=int(like_none.sum()),
                total=len(values),
                examples=[repr(v) for v in sorted(set(text[like_none]))],
                why=f"only {unlabeled_category!r} stands for no label",
                fix='rename them, or make them missing and pass unlabeled="keep" '
                "(--unlabeled keep)",
            )
        )
    n_unlabeled = int((text == unlabeled_category).sum())
    if n_unlabeled:
        warn(
            Problem(
                "E-L06",
                f"cells without a label ({unlabeled_category!r}) take no part in training",
                where=where,
                count=n_unlabeled,
                total=len(values),
            )
        )


def check_classes(values: NDArray[np.object_], unlabeled_category: str, where: str) -> list[str]:
    """Return the classes of training labels in sorted order.

    Warns of names that differ only by blanks or case (E-L11), names that look like none (E-L02),
    cells that are left out (E-L06) and classes of one cell (E-L04).

    Raises
    ------
    LabelError
        Fewer than two classes (E-L03) or more classes than half the cells (E-L05).
    """
    _warn_near_duplicates(values, where)
    _warn_empty_names(values, unlabeled_category, where)
    labelled = values[values != unlabeled_category]
    classes = sorted(set(labelled))
    if len(classes) < 2:
        raise LabelError(
            "E-L03",
            f"there is {'one class' if classes else 'no class'} ({', '.join(classes)})",
            where=where,
            count=len(labelled),
            total=len(values),
            why="a classifier needs two",
            fix="pass labels_key= with a column of at least two types",
        )
    if len(classes) > max(len(labelled) / 2, 2):
        raise LabelError(
            "E-L05",
            "more classes than half the labelled cells",
            where=where,
            count=len(classes),
            total=len(labelled),
            examples=classes[:3],
            why="the column looks like cell names or a measurement",
            fix="pass labels_key= with a column of cell types",
        )
    _warn_single(labelled, where)
    return classes


def _warn_single(labelled: NDArray[np.object_], where: str) -> None:
    """Say which classes have one cell."""
    counts = pd.Series(labelled).value_counts()
    single = sorted(counts.index[counts == 1])
    if single:
        warn(
            Problem(
                "E-L04",
                "classes of one cell",
                where=where,
                count=len(single),
                total=len(counts),
                examples=single,
                why="they are trained on and cannot be validated",
                fix="give them more cells, or join them to a larger class",
            )
        )


def require_all_classes(codes: NDArray[np.int64], labels: Labels) -> None:
    """Refuse training cells that lack a class.

    Parameters
    ----------
    codes
        Class codes of the training cells.
    labels
        Classes of the model.

    Raises
    ------
    UsageError
        E-U20, naming the classes.
    """
    absent = np.flatnonzero(np.bincount(codes, minlength=len(labels)) == 0)
    if len(absent):
        raise UsageError(
            "E-U20",
            "classes without a training cell",
            count=len(absent),
            total=len(labels),
            examples=[labels.names[i] for i in absent],
            why="the model could never call them",
            fix="give them training cells in the split, or take the labels out",
        )


def class_terms(
    values: NDArray[np.object_], terms: pd.Series | None, classes: list[str]
) -> tuple[str, ...]:
    """Return the ontology term of each class; empty where its cells do not agree on one."""
    if terms is None:
        return ("",) * len(classes)
    table = pd.DataFrame({"label": values, "term": terms.astype(object).to_numpy()}).dropna()
    table = table[table["term"].astype(str).str.match(r"^[A-Za-z]+:\d+$")].drop_duplicates()
    unique = table.drop_duplicates("label", keep=False).set_index("label")["term"]
    return tuple(str(unique.get(c, "")) for c in classes)


def term_column(adata: AnnData, labels_key: str, key: str | None = None) -> pd.Series | None:
    """Return the column of ``obs`` with the ontology term of every cell's label.

    Parameters
    ----------
    adata
        Labelled cells.
    labels_key
        Column of the labels.
    key
        The wanted column. Default ``<labels_key>_ontology_term_id``, else CELLxGENE's
        ``cell_type_ontology_term_id`` where it has one term for each label and one label for each
        term; the log says so.

    Returns
    -------
    The column, or ``None``.

    Raises
    ------
    UsageError
        ``key`` is no column (E-U04).
    """
    if key is not None:
        return obs_column(adata, key)
    usual = f"{labels_key}{ONTOLOGY_SUFFIX}"
    if usual in adata.obs.columns:
        return adata.obs[usual]
    standard = f"{CELLXGENE_LABELS}{ONTOLOGY_SUFFIX}"
    if standard not in adata.obs.columns:
        return None
    if doubt := _not_one_to_one(adata.obs[labels_key], adata.obs[standard]):
        logger.info(
            "terms in obs[%r] are not those of obs[%r]: %s; ontology_term_key "
            "(--ontology-term-key) takes them all the same",
            standard,
            labels_key,
            doubt,
        )
        return None
    logger.info("terms of the labels are taken from obs[%r]: one for each label", standard)
    return adata.obs[standard]


def _not_one_to_one(labels: pd.Series, terms: pd.Series) -> str:
    """Say why terms may be those of other labels; nothing where they are of these."""
    pairs = pd.DataFrame({"label": labels.astype(object), "term": terms.astype(object)})
    pairs = pairs.dropna().astype(str).drop_duplicates()
    named = pairs[~pairs["term"].str.casefold().isin(EMPTY_LABELS)]
    if named.empty:
        return "none is named"
    for one, other in (("label", "term"), ("term", "label")):
        among = pairs if one == "label" else named
        again = among.loc[among[one].duplicated(keep=False)]
        if len(again):
            first = again[one].iloc[0]
            theirs = sorted(again.loc[again[one] == first, other])
            return f"{one} {first!r} has several {other}s ({', '.join(theirs[:3])})"
    return ""


def labels_with_terms(
    classes: Sequence[str],
    given: Sequence[str],
    *,
    unlabeled: str = UNLABELED,
    own_terms: Mapping[str, OwnTerm | Mapping[str, object]] | None = None,
) -> Labels:
    """Return the classes with their Cell Ontology terms, and say in the log which have none.

    Parameters
    ----------
    classes
        Names in the order of the outputs.
    given
        Identifier of each class as the data say, or an empty string: then the name is looked up.
    unlabeled
        The category of cells without a label.
    own_terms
        Terms of the user below the Cell Ontology, see ``CellOntology.with_terms``.
    """
    ontology = cell_ontology().with_terms(own_terms or {})
    found = ontology.resolve(classes, term_ids=given)
    logger.info("%s", found.text)
    own = dict(own_terms or {})
    return Labels(tuple(classes), tuple(found.term_ids), unlabeled, ontology.release, own)


def definite_donors(column: pd.Series) -> NDArray[np.object_]:
    """Donor of every cell as text, or ``None`` where the column names no single donor."""
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    indefinite = text.str.casefold().isin(INDEFINITE_DONORS)
    donors: NDArray[np.object_] = text.to_numpy(dtype=object).copy()
    donors[indefinite.to_numpy()] = None
    return donors
