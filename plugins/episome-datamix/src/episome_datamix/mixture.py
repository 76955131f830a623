"""What a score owes to the shares of a mix: a regression with intervals."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import Ridge, RidgeCV

from episome.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Penalties that are tried.
_PENALTIES = np.logspace(-4, 2, 25)
#: Steps of a share.
STEP = 0.05


class MixtureRegression:
    """Scheffe's quadratic polynomial of shares, with a ridge penalty found by leaving mixes out.

    A corpus adds in proportion to its share, and a pair of corpora more (or less) than the sum of
    both, which also is how returns diminish: half of each is better than the mean of both alone.
    Intervals are those of the jackknife+: predictions without each mix in turn, plus and minus
    what they were wrong by on it.

    Parameters
    ----------
    shares
        Of every mix, (n_mixes, n_corpora); rows sum to 1.
    values
        Score of every mix, (n_mixes,).

    Raises
    ------
    UsageError
        There are fewer mixes than corpora and two (E-B13).

    References
    ----------
    Scheffe (1958), J. R. Stat. Soc. B 20, 344; Barber et al. (2021), 10.1214/20-AOS1965.
    """

    def __init__(self, shares: NDArray[np.floating], values: NDArray[np.floating]) -> None:
        x, y = features(shares), np.asarray(values, dtype=float)
        if len(y) < shares.shape[1] + 2:
            raise UsageError(
                "E-B13",
                f"{len(y)} mixes are too few to tell what {shares.shape[1]} corpora add",
                fix=f"run {shares.shape[1] + 2} or more",
            )
        penalty = float(RidgeCV(_PENALTIES).fit(x, y).alpha_)
        self._whole = Ridge(penalty).fit(x, y)
        self._without = []
        rest = np.arange(len(y))
        for i in rest:
            self._without.append(Ridge(penalty).fit(x[rest != i], y[rest != i]))
        self.held_out = np.array(
            [m.predict(x[i : i + 1])[0] for i, m in enumerate(self._without)], dtype=float
        )
        self._errors = np.abs(y - self.held_out)

    def __call__(self, shares: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the expected score of mixes, (n_mixes,)."""
        found: NDArray[np.floating] = self._whole.predict(features(shares))
        return found

    def gains(
        self,
        shares: NDArray[np.floating],
        reference: NDArray[np.floating],
        level: float = 0.9,
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """Return what mixes gain against another, with the ends of an interval, (n_mixes,) each.

        Parameters
        ----------
        shares
            Of the mixes, (n_mixes, n_corpora).
        reference
            Of the other, (n_corpora,).
        level
            Of the intervals: where another set of runs of such mixes would lie.
        """
        both = features(np.concatenate([shares, reference[None]]))
        parts = np.stack([m.predict(both) for m in self._without])
        of = parts[:, :-1] - parts[:, -1:]
        n = len(of)
        # The (n + 1) * level-th smallest of the upper ends, and so of the lower.
        at = min(int(np.ceil((n + 1) * level)), n) - 1
        upper = np.sort(of + self._errors[:, None], axis=0)[at]
        lower = np.sort(of - self._errors[:, None], axis=0)[n - 1 - at]
        whole = self._whole.predict(both)
        # A mix gains nothing over itself, whatever runs would scatter by.
        same = np.abs(np.atleast_2d(shares) - reference).max(axis=1) < 1e-6
        lower[same] = upper[same] = 0.0
        return whole[:-1] - whole[-1], lower, upper


def features(shares: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return shares and products of pairs, the latter four times, so that all end at 1.

    Parameters
    ----------
    shares
        (n_mixes, n_corpora).
    """
    given = np.atleast_2d(np.asarray(shares, dtype=float))
    pairs = [4 * given[:, i] * given[:, j] for i, j in combinations(range(given.shape[1]), 2)]
    return np.stack([*given.T, *pairs], axis=1)


def designed(n_corpora: int, n_mixes: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Return mixes from which a quadratic polynomial of shares is told, (n_mixes, n_corpora).

    Equal shares first, then every corpus alone, then halves of pairs in a random order, then
    whatever is drawn.

    Parameters
    ----------
    n_corpora, n_mixes
        How many.
    rng
        What draws.
    """
    rows = [np.full(n_corpora, 1 / n_corpora), *np.eye(n_corpora)]
    pairs = [
        0.5 * (np.eye(n_corpora)[i] + np.eye(n_corpora)[j])
        for i, j in combinations(range(n_corpora), 2)
    ]
    # Halves of a pair of two corpora are equal shares already.
    rows += [pairs[i] for i in rng.permutation(len(pairs))] if n_corpora > 2 else []
    while len(rows) < n_mixes:
        rows += list(drawn(n_corpora, 1, rng))
    return np.stack(rows[:n_mixes])


def drawn(n_corpora: int, n_mixes: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Return shares drawn at random, some near the corners, in steps of 5 %.

    Parameters
    ----------
    n_corpora, n_mixes
        How many, (n_mixes, n_corpora).
    rng
        What draws.
    """
    units = round(1 / STEP)
    rows = []
    for _ in range(n_mixes):
        exact = rng.dirichlet(np.full(n_corpora, 0.7)) * units
        whole = np.floor(exact)
        order = np.argsort(whole - exact)
        whole[order[: int(units - whole.sum())]] += 1
        rows.append(whole * STEP)
    return np.stack(rows)
