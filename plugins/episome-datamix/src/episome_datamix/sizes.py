"""How scores grow with the number of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize

from episome import settings
from episome.errors import UsageError
from episome_datamix.tasks import FLOOR

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SizeCurve:
    """How a score grows with the number of cells: ``top - drop * n ** -rate``.

    Parameters
    ----------
    mix, evaluation, model
        Of what.
    top, drop, rate
        Of the curve; ``top`` is what it tends to.
    saturation
        Cells of each corpus at which 95 % of the way from the smallest size to ``top`` is gone.
    low, high
        95 % of ``saturation``, over seeds drawn anew; NaN of fewer than three.
    beyond
        Whether that lies beyond the sizes that were run, where the curve is a guess.
    """

    mix: str
    evaluation: str
    model: str
    top: float
    drop: float
    rate: float
    saturation: float
    low: float
    high: float
    beyond: bool

    def __call__(self, n: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the curve at numbers of cells."""
        found: NDArray[np.floating] = self.top - self.drop * np.asarray(n, float) ** -self.rate
        return found


def size_curves(
    table: pd.DataFrame, *, metric: str = "r2", n_draws: int = 200
) -> tuple[SizeCurve, ...]:
    """Fit a curve of the number of cells to every mix, model and evaluation set.

    Parameters
    ----------
    table
        Of :func:`results`, of a plan with a series of three sizes and more.
    metric
        What grows.
    n_draws
        Draws of seeds for the interval.

    Raises
    ------
    UsageError
        There are fewer than three sizes (E-B13).
    """
    kept = table[(table["metric"] == metric) & (table["part"] == "")]
    kept = kept[kept["n_cells"].notna() & (kept["model"] != FLOOR)]
    if kept["n_cells"].nunique() < 3:
        raise UsageError(
            "E-B13",
            f"{kept['n_cells'].nunique()} sizes were run, and a curve needs three",
            fix="sizes = [250, 500, 1000, 2000] in the plan",
        )
    rng = np.random.default_rng(settings.stream_seed("bootstrap"))
    curves = []
    for (mix, evaluation, model), of in kept.groupby(["mix", "evaluation", "model"], sort=True):
        wide = of.pivot_table(index="seed", columns="n_cells", values="value").dropna()
        if wide.shape[1] < 3 or wide.empty:
            continue
        sizes = wide.columns.to_numpy(float)
        top, drop, rate = _fitted(sizes, wide.mean().to_numpy())
        points = []
        for _ in range(n_draws if len(wide) > 2 else 0):
            drawn = wide.to_numpy()[rng.integers(0, len(wide), len(wide))].mean(axis=0)
            points.append(_saturation(sizes, *_fitted(sizes, drawn)))
        at = _saturation(sizes, top, drop, rate)
        low, high = np.percentile(points, [2.5, 97.5]) if points else (np.nan, np.nan)
        curves.append(
            SizeCurve(
                str(mix),
                str(evaluation),
                str(model),
                top,
                drop,
                rate,
                at,
                float(low),
                float(high),
                bool(at > sizes.max()),
            )
        )
    return tuple(curves)


def _fitted(
    sizes: NDArray[np.floating], values: NDArray[np.floating]
) -> tuple[float, float, float]:
    """Least squares; for a rate, the rest of the curve is a line."""

    def error(log_rate: float) -> tuple[float, NDArray[np.floating]]:
        x = np.stack([np.ones_like(sizes), -(sizes ** -np.exp(log_rate))], axis=1)
        # Scores do not fall with more cells: a drop below zero is none.
        found, _ = optimize.nnls(np.column_stack([x[:, 0], -x[:, 0], x[:, 1]]), values)
        line = np.array([found[0] - found[1], found[2]])
        return float(((x @ line - values) ** 2).sum()), line

    grid = np.linspace(np.log(0.05), np.log(3.0), 40)
    best = min(grid, key=lambda r: error(r)[0])
    step = grid[1] - grid[0]
    tuned = optimize.minimize_scalar(
        lambda r: error(r)[0], bounds=(best - step, best + step), method="bounded"
    ).x
    top, drop = error(float(tuned))[1]
    return float(top), float(drop), float(np.exp(tuned))


def _saturation(sizes: NDArray[np.floating], top: float, drop: float, rate: float) -> float:
    if drop <= 0:
        return float(sizes.min())
    return float(sizes.min() * 0.05 ** (-1 / rate))
