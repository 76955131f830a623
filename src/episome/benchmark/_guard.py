"""Leaks between training and test cells: what makes a benchmark say too much."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from episome.data import AnnDataSource
from episome.errors import InputDataError, Problem, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

#: What may cross a split, and why that matters.
KINDS = {
    "donor": "cells of one donor are alike: a model that knows it is not tested on a new one",
    "barcode": "a name that is in both parts is the same cell, or a droplet of the same run",
    "cell": "the same counts are in both parts: the answer was seen in training",
}
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that is in both parts.

    Parameters
    ----------
    kind
        ``"donor"``, ``"barcode"`` or ``"cell"``.
    count
        Test cells concerned.
    total
        Test cells in all.
    examples
        Names of donors or cells.
    """

    kind: str
    count: int
    total: int
    examples: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for reports."""
        named = ", ".join(self.examples)
        return f"{self.kind}: {self.count:,} of {self.total:,} test cells ({named})"


def find_leaks(train: AnnData, test: AnnData, *, donor_key: str | None = None) -> tuple[Leak, ...]:
    """Look for donors, cell names and cells that are in both parts.

    Cells are the same where they have the same value for every gene; empty cells are left out.
    Names that are plain row numbers are no leak.

    Parameters
    ----------
    train, test
        The parts, with the same genes and their values in ``X``.
    donor_key
        Column of both that names the donor.

    Returns
    -------
    One :class:`Leak` per kind that was found.
    """
    n = test.n_obs
    found = []
    if donor_key is not None and donor_key in train.obs and donor_key in test.obs:
        donors = test.obs[donor_key].astype("string")
        shared = donors.isin(set(train.obs[donor_key].astype("string").dropna())) & donors.notna()
        found.append(_leak("donor", shared.to_numpy(bool), donors, n))
    names = test.obs_names.to_series().astype(str)
    again = names.isin(set(train.obs_names.astype(str))) & ~names.str.fullmatch(r"\d+")
    found.append(_leak("barcode", again.to_numpy(bool), names, n))
    seen = set(_digests(train).tolist()) - {0}
    same = np.isin(_digests(test), np.fromiter(seen, np.uint64, len(seen)))
    found.append(_leak("cell", same, names, n))
    return tuple(leak for leak in found if leak is not None)


def require_no_leaks(
    leaks: Collection[Leak], allowed: Collection[str], *, where: str, fix: str | None = None
) -> None:
    """Refuse leaks that nobody allowed by name.

    Parameters
    ----------
    leaks
        Of :func:`find_leaks`.
    allowed
        Kinds that a study says are meant.
    where
        How messages name the split.
    fix
        What to do about it; default what a study can.

    Raises
    ------
    UsageError
        An allowed kind is none (E-B03).
    InputDataError
        Something else is in both parts (E-L20).
    """
    if unknown := sorted(set(allowed) - set(KINDS)):
        raise UsageError(
            "E-B03", f"allow={unknown} names no leak", fix=f"use some of {', '.join(KINDS)}"
        )
    problems = [
        Problem(
            "E-L20",
            f"training and test share: {leak.kind}",
            where,
            leak.count,
            leak.total,
            list(leak.examples),
            KINDS[leak.kind],
            fix or f'split by another column, or say that it is meant: allow = ["{leak.kind}"]',
        )
        for leak in leaks
        if leak.kind not in allowed
    ]
    if problems:
        raise InputDataError(problems)


def _leak(kind: str, where: NDArray[np.bool_], names: pd.Series, total: int) -> Leak | None:
    if not where.any():
        return None
    examples = list(dict.fromkeys(names[where].astype(str)))[:3]
    return Leak(kind, int(where.sum()), total, tuple(examples))


def _digests(adata: AnnData) -> NDArray[np.uint64]:
    """Return a number for the values of every cell, (n_obs,); 0 for a cell without any.

    A random number for every gene times its value, summed in integers that wrap around: cells
    that differ have another sum but for one chance in some 10^19.
    """
    source = AnnDataSource(adata)
    # By the name of the gene, so that the order of the columns does not matter.
    weights = np.array([_of_name(str(g)) for g in source.var.index], dtype=np.uint64)
    out = np.zeros(source.n_obs, dtype=np.uint64)
    for start in range(0, source.n_obs, _BLOCK):
        rows = slice(start, min(start + _BLOCK, source.n_obs))
        block = source.read(rows).copy()
        block.eliminate_zeros()
        # The bits of the value, not the value: sums of products of floats are not exact.
        bits = block.data.astype(np.float32).view(np.uint32).astype(np.uint64)
        terms = _mixed(weights[block.indices] + bits * np.uint64(0x9E3779B97F4A7C15))
        full = np.flatnonzero(np.diff(block.indptr))
        part = np.zeros(block.shape[0], dtype=np.uint64)
        if len(full):
            part[full] = np.add.reduceat(terms, block.indptr[full])
        out[rows] = part
    return out


def _of_name(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the bits of numbers over all 64 of them."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
