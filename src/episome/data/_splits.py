"""Splits of training cells: by donor where donors are known, by class otherwise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from episome import settings
from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers of each part; disjoint, int64, sorted.

    ``calibration`` cells neither train nor choose the model. ``by`` is ``"donor"`` or ``"cell"``
    (stratified by class), or ``"given"``.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    by: Literal["donor", "cell", "given"]
    seed: int
    calibration: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def digest(self) -> str:
        """SHA-256 over the parts, to record with results."""
        h = hashlib.sha256()
        more = (self.calibration,) if len(self.calibration) else ()
        for part in (self.train, self.validation, self.test, *more):
            h.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
            h.update(b"|")
        return h.hexdigest()


def split_cells(
    labels: NDArray[np.int64],
    *,
    donors: NDArray[np.object_] | None = None,
    train_size: float | None = None,
    validation_size: float | None = None,
    calibration_size: float = 0.0,
    seed: int | None = None,
    min_donors: int = 4,
) -> Split:
    """Split cells into training, validation and test parts.

    With at least ``min_donors`` donors whole donors are drawn, so that none stands on both sides.
    Otherwise cells are drawn within each class. Where donors are known, cells without a definite
    one stay in training. A class never loses its last training cell.

    Parameters
    ----------
    labels
        Class codes, shape (n_cells,); negative codes take no part.
    donors
        Donor of each cell or ``None`` entries, shape (n_cells,).
    train_size, validation_size
        Shares of the cells; what both leave is the test part. Default: 0.9 and the rest.
    calibration_size
        Share of the cells that is taken for calibration before the others are drawn.
    seed
        Default ``episome.settings.seed``.
    min_donors
        Fewer donors are split by cell.

    Returns
    -------
    A :class:`Split`.

    Raises
    ------
    UsageError
        Sizes outside [0, 1] or adding up to more than 1 (E-U10).
    """
    train_size, validation_size = _sizes(train_size, validation_size)
    if not 0.0 <= calibration_size < 1.0:
        raise UsageError(
            "E-U10",
            f"calibration_size={calibration_size!r}",
            why="it is a share of the cells",
            fix="calibration_size=0.1",
        )
    seed = settings.seed if seed is None else seed
    rng = np.random.default_rng(settings.stream_seed("split", seed))
    test_size = 1.0 - train_size - validation_size
    usable = np.flatnonzero(labels >= 0)
    n_donors = 0 if donors is None else len({d for d in donors[usable] if d is not None})
    by: Literal["donor", "cell"] = "donor" if n_donors >= min_donors else "cell"
    draw = _draw_donors if by == "donor" else _draw_cells
    groups = donors if donors is not None else np.full(len(labels), None, dtype=object)
    # Where donors are known, a cell of none may be anybody's: it is no fair test.
    eligible = usable[groups[usable] != np.array(None)] if n_donors else usable
    # From a stream of its own: the other parts of a split without it stay what they were.
    own = np.random.default_rng(settings.stream_seed("calibration", seed))
    calibration = draw(eligible, labels, groups, calibration_size * len(usable), own)
    left, n_left = np.setdiff1d(eligible, calibration), len(usable) - len(calibration)
    validation = draw(left, labels, groups, validation_size * n_left, rng)
    test = draw(np.setdiff1d(left, validation), labels, groups, test_size * n_left, rng)
    train = np.setdiff1d(usable, np.concatenate([calibration, validation, test]))
    return Split(train, validation, test, by, seed, calibration)


def _sizes(train_size: float | None, validation_size: float | None) -> tuple[float, float]:
    if train_size is None:
        train_size = 0.9 if validation_size is None else 1.0 - validation_size
    if validation_size is None:
        validation_size = 1.0 - train_size
    inside = 0.0 < train_size <= 1.0 and 0.0 <= validation_size < 1.0
    if not inside or train_size + validation_size > 1.0 + 1e-9:
        raise UsageError(
            "E-U10",
            f"train_size={train_size:g} and validation_size={validation_size:g} do not fit",
            why="train_size must be in (0, 1], validation_size in [0, 1), their sum at most 1",
            fix="train_size=0.9, validation_size=0.1",
        )
    return train_size, validation_size


def _draw_cells(
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    donors: NDArray[np.object_],
    wanted: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw the same share of every class, at least one cell of classes with two or more."""
    if wanted < 0.5 or len(rows) == 0:
        return np.empty(0, dtype=np.int64)
    share = wanted / len(rows)
    parts = []
    for code in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == code])
        n = int(round(share * len(members)))
        n = min(max(n, 1 if share > 0 else 0), len(members) - 1)
        parts.append(members[:n])
    return np.sort(np.concatenate(parts))


def _draw_donors(
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    donors: NDArray[np.object_],
    wanted: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw whole donors until the share is reached; skip one that would empty a class."""
    if wanted < 0.5:
        return np.empty(0, dtype=np.int64)
    here = donors[rows]
    names = np.array(sorted({d for d in here if d is not None}), dtype=object)
    taken = np.zeros(len(rows), dtype=bool)
    for donor in rng.permutation(names):
        trial = taken | (here == donor)
        if taken.any() and trial.sum() > 1.5 * wanted:
            continue
        if len(np.unique(labels[rows[~trial]])) == len(np.unique(labels[rows])):
            taken = trial
        if taken.sum() >= wanted:
            break
    return rows[taken]


def given_split(
    parts: list[NDArray[np.int64]] | tuple[NDArray[np.int64], ...], n_obs: int, seed: int
) -> Split:
    """Check a split made by the caller: ``[train, validation, test, calibration]`` row numbers.

    Raises
    ------
    UsageError
        Rows out of range or in two parts (E-U11).
    """
    arrays = [np.unique(np.asarray(p, dtype=np.int64)) for p in parts]
    arrays += [np.empty(0, dtype=np.int64)] * (4 - len(arrays))
    rows = np.concatenate(arrays)
    if len(np.unique(rows)) != len(rows) or (
        len(rows) and not (0 <= rows.min() <= rows.max() < n_obs)
    ):
        raise UsageError(
            "E-U11",
            "rows of external_indexing overlap or are out of range",
            where="datasplitter_kwargs",
            total=n_obs,
            fix="pass [train, validation, test, calibration] as disjoint arrays of row numbers",
        )
    return Split(arrays[0], arrays[1], arrays[2], "given", seed, arrays[3])


def stratified_halves(
    labels: NDArray[np.int64], *, test_size: float, seed: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and held-out rows, stratified by class."""
    split = split_cells(labels, train_size=1 - test_size, validation_size=0.0, seed=seed)
    return split.train, split.test
