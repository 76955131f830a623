"""Parts of the training of classifiers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from episome.data import donor_shifts, measured_genes
from episome.errors import UsageError, with_option
from episome.train import DonorAugmentation

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from episome.data import CellSource, Query
    from episome.train import CellDataModule, ProgressReport


#: Keys of ``datasplitter_kwargs`` of networks.
SPLITTER = ("external_indexing", "drop_last", "sampling", "split")


def normalized_rows(data: CellDataModule | Query, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return the normalised log1p values of chosen rows as one scipy CSR."""
    from episome.nn import host_batch, normalized_batch

    def block(batch: dict[str, object]) -> object:
        ready = normalized_batch(
            host_batch(batch),
            target_sum=data.rule.target_sum,
            n_features=data.alignment.n_features,
            input_format="scipy",
        )
        return ready["X"]

    blocks = [block(b) for b in data.loader(rows, batch_size=2048)]
    return sparse.vstack(blocks, format="csr")


@contextmanager
def knowing_what_was_measured(core: Any, data: CellDataModule) -> Iterator[None]:
    """Let a loss leave out genes that were not measured in a cell, for as long as it is trained.

    Parameters
    ----------
    core
        Whose loss it is; it has ``set_measured(panels)``.
    data
        Of the training.
    """
    core.set_measured(measured_genes(data.source, data.alignment))
    try:
        yield
    finally:
        core.set_measured(None)


def donor_augmentation(data: CellDataModule, strength: float = 1.0) -> DonorAugmentation:
    """Build the table from the donors of the training part, and nobody else's.

    Parameters
    ----------
    data
        Of the training.
    strength
        Share of a difference that is added.

    Raises
    ------
    UsageError
        No donors are known, or they tell nothing (E-U35).
    """
    if data.donors is None:
        raise UsageError(
            "E-U35",
            'augment="donor" has nothing to learn from: no donors are known',
            where="train()",
            why="it adds differences between donors",
            fix="set up with donor_key=, or leave augment out",
        )
    shifts = donor_shifts(
        lambda rows: normalized_rows(data, rows),
        data.split.train,
        data.labels,
        data.donors,
        seed=data.seed,
    )
    return DonorAugmentation(
        shifts, target_sum=data.rule.target_sum, strength=strength, seed=data.seed
    )


def part_of(progress: ProgressReport | None, part: int, n_parts: int) -> ProgressReport | None:
    """Return the report of one of several runs of the same length."""
    if progress is None or n_parts == 1:
        return progress

    def report(done: int, total: int, metrics: dict[str, float]) -> None:
        progress(part * total + done, n_parts * total, metrics)

    return report


def checked_splitter(
    kwargs: Mapping[str, Any] | None,
    *,
    shuffle_set_split: bool = True,
    known: Collection[str] = SPLITTER,
) -> dict[str, Any]:
    """Return ``datasplitter_kwargs`` that make sense.

    Parameters
    ----------
    kwargs
        Of ``train``.
    shuffle_set_split
        Only ``True``.
    known
        Keys that the model takes.

    Raises
    ------
    UsageError
        Other keys, or an unshuffled split (E-U21), or a split given twice (E-U27).
    """
    given = dict(kwargs or {})
    unknown = sorted(set(given) - set(known))
    if unknown or not shuffle_set_split:
        raise UsageError(
            "E-U21",
            f"unknown keys {', '.join(map(with_option, unknown))}"
            if unknown
            else "shuffle_set_split=False",
            where="datasplitter_kwargs" if unknown else "train()",
            fix="pass external_indexing=[train, validation, test] to choose the cells of each "
            "part, or split= (--split) with a file of `episome corpus split`",
        )
    require_one_split(given)
    return given


def require_one_split(splitter: Mapping[str, Any]) -> None:
    """Refuse a file and lists of rows beside each other.

    Raises
    ------
    UsageError
        E-U27.
    """
    if splitter.get("split") is not None and splitter.get("external_indexing") is not None:
        raise UsageError(
            "E-U27",
            "both `split` and `external_indexing` are given",
            where="datasplitter_kwargs",
            fix="pass only one of them",
        )


def require_weights(sampling: object, source: CellSource) -> None:
    """Refuse a column of weights that there is not, before the values of cells are read.

    Raises
    ------
    UsageError
        E-U04.
    """
    if isinstance(sampling, str) and sampling != "balanced":
        source.obs_column(sampling)


def drawing_weights(
    sampling: object, source: CellSource, codes: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Return how often every cell is drawn in training, relative to the others.

    Parameters
    ----------
    sampling
        ``None``: every cell once an epoch. ``"balanced"``: every class as often as the others.
        The name of a column of numbers, or an array of them.
    source, codes
        All cells, and their classes.
    rows
        The training cells.

    Returns
    -------
    float64 (n_obs,).

    Raises
    ------
    UsageError
        The column is missing (E-U04) or holds no numbers, or the array has another length
        (E-U98).
    """
    if sampling is None:
        return None
    if isinstance(sampling, str) and sampling == "balanced":
        counts = np.bincount(codes[rows])
        return np.where(codes >= 0, 1.0 / np.maximum(counts, 1)[np.maximum(codes, 0)], 0.0)
    values = source.obs_column(sampling) if isinstance(sampling, str) else sampling
    try:
        found: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != codes.shape:
        what = f"sampling={sampling!r}" if isinstance(sampling, str) else "sampling"
        raise UsageError(
            "E-U98",
            f"{what} holds no weight for every cell",
            where=source.where,
            total=len(codes),
            fix='use "balanced", the name of a column of numbers, or one number per cell',
        )
    return found


def given(value: Any, default: Any) -> Any:
    return default if value is None else value


def require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError("E-U22", f"{name}={value}", fix=f"pass {name} of at least 1")


def require_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise UsageError("E-U22", f"{name}={value}", fix=f"pass {name} of 0 or more")


def append_history(
    old: dict[str, pd.DataFrame] | None, new: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    import pandas as pd

    if not old:
        return dict(new)
    shift = max(len(f) for f in old.values())
    moved = {k: f.set_axis(f.index + shift) for k, f in new.items()}
    return {
        k: pd.concat([f for f in (old.get(k), moved.get(k)) if f is not None])
        for k in {**old, **moved}
    }
