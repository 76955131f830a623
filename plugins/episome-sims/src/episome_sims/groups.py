"""Groups of genes that a mask chooses together, from names to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from episome.errors import GeneMatchError, UsageError
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import FeatureSpace

logger = get_logger(__name__)

Groups: TypeAlias = "Mapping[str, Sequence[str]] | Sequence[int] | NDArray[np.integer]"


def group_numbers(groups: Groups | None, features: FeatureSpace) -> list[int] | None:
    """Return the group of every gene of a model, one number per gene.

    Parameters
    ----------
    groups
        Genes by the name of their group, or the number of the group of every gene of the model
        (n_genes,), from zero without gaps. A gene in no group is a group of its own.
    features
        Genes of the model.

    Returns
    -------
    ``n_genes`` integers, or ``None`` without groups.

    Raises
    ------
    UsageError
        Genes in several groups, or numbers that are no groups (E-U31).
    GeneMatchError
        No gene of any group is the model's (E-G02).
    """
    if groups is None:
        return None
    if isinstance(groups, Mapping):
        return _from_names(groups, features)
    numbers = np.asarray(groups)
    fits = numbers.shape == (len(features),) and numbers.dtype.kind in "iu"
    if not fits or not np.array_equal(np.unique(numbers), np.arange(int(numbers.max()) + 1)):
        raise UsageError(
            "E-U31",
            f"feature_groups of shape {numbers.shape} and type {numbers.dtype}",
            why=f"the {len(features):,} genes of the model need one group each, numbered from 0 "
            "without gaps",
            fix="pass genes by the name of their group, or such an array",
        )
    return numbers.tolist()


def plain_groups(groups: Groups | None) -> object:
    """Return groups as plain data, which a folder can hold."""
    if isinstance(groups, Mapping):
        return {str(name): [str(g) for g in genes] for name, genes in groups.items()}
    return None if groups is None else np.asarray(groups).tolist()


def _from_names(groups: Mapping[str, Sequence[str]], features: FeatureSpace) -> list[int]:
    names = [name for name, genes in groups.items() for _ in genes]
    genes = [str(g) for g in chain.from_iterable(groups.values())]
    found = _find(list(dict.fromkeys(genes)), features)
    numbers = np.full(len(features), -1, dtype=np.int64)
    owner = {name: i for i, name in enumerate(groups)}
    shared = []
    for name, gene in zip(names, genes, strict=True):
        place = found.get(gene, -1)
        if place < 0:
            continue
        if numbers[place] not in (-1, owner[name]):
            shared.append(gene)
        numbers[place] = owner[name]
    if shared:
        raise UsageError(
            "E-U31",
            "genes in several groups",
            where="feature_groups",
            count=len(shared),
            total=len(found),
            examples=shared,
            why="a mask spreads the weight of a gene's one group",
            fix="leave every gene in one group",
        )
    unknown = [g for g in dict.fromkeys(genes) if found.get(g, -1) < 0]
    if unknown:
        logger.info(
            "%d of %d genes of feature_groups are not the model's, first: %s",
            len(unknown), len(set(genes)), ", ".join(unknown[:3]),
        )  # fmt: skip
    alone = np.flatnonzero(numbers < 0)
    numbers[alone] = len(owner) + np.arange(len(alone))
    # Groups without a gene of the model leave gaps: close them.
    return np.unique(numbers, return_inverse=True)[1].ravel().tolist()


def _find(genes: list[str], features: FeatureSpace) -> dict[str, int]:
    """Return the place of every gene in the model, -1 for others."""
    matched = features.match(pd.DataFrame(index=genes), duplicates="first", where="feature_groups")
    if genes and not matched.report.n_matched:
        raise GeneMatchError(
            "E-G02",
            "none of the genes is the model's",
            where="feature_groups",
            count=len(genes),
            total=len(genes),
            examples=genes,
            why=f"the model's are named like {features.ids[0]}",
            fix="name genes as the training data do",
        )
    return dict(zip(genes, matched.columns.tolist(), strict=True))
