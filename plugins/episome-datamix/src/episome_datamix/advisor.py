"""Which cells to train on next: small runs of mixes, and what they say of large ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import settings
from episome.errors import InputDataError, UsageError, did_you_mean
from episome_datamix.analysis import results, spearman
from episome_datamix.mixing import smallest
from episome_datamix.mixture import MixtureRegression, designed, drawn
from episome_datamix.plan import Mix, Plan
from episome_datamix.pools import pool_of
from episome_datamix.profiles import Profiles
from episome_datamix.ranking import difference, ranked
from episome_datamix.runner import CHECK, PROXIES, main_metric, reasons_of, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.benchmark import Executor, Run, RunResult

    Progress = Callable[[int, int, Run, RunResult], None]

#: Cells of a small run in its part that is advised on, at least.
FEWEST = 50
#: Small runs have at most this share of the cells of the large ones.
_SHARE = 0.25
#: Mixes among which the best is looked for.
_CANDIDATES = 2000
_LEVEL = 0.9
EQUAL = "equal shares"


@dataclass(frozen=True, slots=True, eq=False)
class Advice:
    """Which cells to train on next, by small runs.

    Parameters
    ----------
    plan
        The plan whose corpora the cells are of.
    target
        Evaluation set that is to gain.
    n_cells
        Cells that are added.
    start
        Mix that they are added to; empty: nothing.
    proxies
        The small runs, a row per mix: the share of every corpus, ``value`` (mean over seeds),
        ``said`` (by the regression without this mix), ``similarity`` of its mean profile with the
        target's, ``coverage`` (share of the target's cells with near training cells).
    candidates
        Mixes that there are cells for, best first: the share of every corpus, ``gain`` over equal
        shares, ``low`` and ``high`` (90 %), ``similarity``.
    metric
        What is to gain.
    proxy_cells
        Cells that a small run adds.
    regression
        The regression itself.
    """

    plan: Plan
    target: str
    n_cells: int
    start: str
    proxies: pd.DataFrame
    candidates: pd.DataFrame
    metric: str
    proxy_cells: int
    regression: MixtureRegression

    @property
    def best(self) -> dict[str, float]:
        """Share of every corpus in the mix that is advised."""
        row = self.candidates.iloc[0]
        return {name: float(row[name]) for name in self.plan.corpora}

    @property
    def sure(self) -> bool:
        """Whether the interval of the gain of the advised mix lies above zero."""
        return bool(self.candidates.iloc[0]["low"] > 0)

    @property
    def rank_r(self) -> float:
        """Spearman's correlation of what small runs gave with what was said without them."""
        return spearman(self.proxies["value"], self.proxies["said"])

    @property
    def text(self) -> str:
        """What is advised, in one paragraph."""
        row = self.candidates.iloc[0]
        parts = [f"{n * self.n_cells:,.0f} of {name}" for name, n in self.best.items() if n]
        line = (
            f"Of the next {self.n_cells:,} cells take {', '.join(parts)}: {self.metric} on "
            f"{self.target} {row['gain']:+.3f} against equal shares (90 %: {row['low']:+.3f} to "
            f"{row['high']:+.3f}), by {len(self.proxies)} mixes of {self.proxy_cells:,} cells."
        )
        if not self.sure:
            line += " The small runs do not show that it is better than equal shares."
        return line


@dataclass(frozen=True, slots=True, eq=False)
class AdviceCheck:
    """What full runs say of an advice.

    Parameters
    ----------
    mixes
        A row per mix that was fixed beforehand: its shares, ``value``, what the advisor said
        (``gain``), ``similarity``, ``coverage``; the advised mix and equal shares last, which are
        in no correlation.
    ranks
        A row for ``advisor``, ``similarity`` and ``coverage``: ``spearman`` with the scores, with
        ``low`` and ``high`` (95 %, mixes drawn anew), ``n_mixes``, and ``regret``: how far the mix
        that it ranks first stays behind the best.
    difference
        Spearman's of the advisor less that of the similarity, with its interval.
    gain
        Of the advised mix over equal shares in full runs, and what was said.
    """

    mixes: pd.DataFrame
    ranks: pd.DataFrame
    difference: tuple[float, float, float]
    gain: tuple[float, float]

    @property
    def text(self) -> str:
        """What came out, in one paragraph."""
        mean, low, high = self.difference
        better = "ranks better" if low > 0 else "ranks worse" if high < 0 else "is not told from"
        sure = "" if np.isnan(low) else f", 95 % {low:+.2f} to {high:+.2f}"
        of = self.ranks["spearman"]
        return (
            f"Over {int(self.ranks['n_mixes'].iloc[0])} mixes fixed beforehand the advisor's "
            f"Spearman correlation is {of['advisor']:.2f} and that of similarity "
            f"{of['similarity']:.2f} ({mean:+.2f}{sure}): it {better} "
            f"{'than ' if 'ranks' in better else ''}similarity. The advised mix gains "
            f"{self.gain[0]:+.3f} over equal shares, and {self.gain[1]:+.3f} was said."
        )


def advise(
    plan: Plan | str | Path,
    target: str,
    out: str | Path,
    *,
    n_cells: int,
    start: str = "",
    n_mixes: int | None = None,
    proxy_cells: int | None = None,
    base: str | Path | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Advice:
    """Say which cells, of which corpora, a target gains most from.

    Small runs of designed mixes are scored on half of the target's donors, and a regression on the
    shares says what other mixes would give. That small runs tell large ones is an assumption:
    :func:`check_advice` tests it, on the other half.

    Parameters
    ----------
    plan
        The plan, or its TOML file: its corpora, its first model, its seeds.
    target
        One of its evaluation sets.
    out
        Folder of results; what is there is not run again.
    n_cells
        How many cells are to be added.
    start
        Mix of the plan that they are added to; empty: nothing is there yet.
    n_mixes
        Small runs per seed; default 16, or 6 and two for every corpus where that is more.
    proxy_cells
        Cells that a small run adds; default a quarter of ``n_cells``, or what the smallest corpus
        has.
    base
        Folder that paths are relative to; default that of the file, or the current one.
    executor, progress
        As in :func:`episome_datamix.run`.

    Returns
    -------
    An :class:`Advice`.

    Raises
    ------
    UsageError
        There is no such target or mix, or one corpus alone (E-B07).
    InputDataError
        The corpora are too small (E-B06), or overlap with the target (E-L20).
    """
    plan, base = _opened(plan, base)
    _require(target, plan.evaluation, "evaluation set")
    if len(plan.corpora) < 2:
        raise UsageError("E-B07", "one corpus leaves nothing to choose", fix="name two or more")
    if start:
        _require(start, {m.name: m for m in plan.mixes}, "mix")
    first = _on(plan, target, "first")
    have = _start_cells(first, start, base)
    factor = _factor(first, have, n_cells, proxy_cells, base)
    small = {n: int(k * factor) for n, k in have.items()}
    proxy_cells = int(n_cells * factor)
    names = list(plan.corpora)
    shares = designed(
        len(names),
        n_mixes or max(16, 6 + 2 * len(names)),
        np.random.default_rng(settings.stream_seed("advice-design", 0)),
    )
    values = _scored(
        first, PROXIES, shares, small, proxy_cells, target, out, base, executor, progress
    )
    profiles = Profiles(first, target, base)
    regression = MixtureRegression(shares, values["value"].to_numpy())
    proxies = pd.DataFrame(shares, columns=names, index=values.index)
    proxies["value"], proxies["coverage"] = values["value"], values["coverage"]
    proxies["said"] = regression.held_out
    proxies["similarity"] = profiles(shares, small, proxy_cells)
    others = _candidates(first, have, n_cells, base)
    gain, low, high = regression.gains(others, np.full(len(names), 1 / len(names)), _LEVEL)
    candidates = pd.DataFrame(others, columns=names).assign(
        gain=gain, low=low, high=high, similarity=profiles(others, have, n_cells)
    )
    candidates = candidates.sort_values("gain", ascending=False, ignore_index=True)
    return Advice(
        plan,
        target,
        n_cells,
        start,
        proxies,
        candidates,
        main_metric(plan),
        proxy_cells,
        regression,
    )


def check_advice(
    advice: Advice,
    out: str | Path,
    *,
    n_mixes: int = 12,
    base: str | Path | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> AdviceCheck:
    """Compare an advice with full runs, on the donors of the target that it was not made from.

    Parameters
    ----------
    advice
        Of :func:`advise`.
    out
        Folder of results.
    n_mixes
        Mixes that are run in full, and which are drawn whatever the small runs said; besides them
        the advised one and equal shares.
    base, executor, progress
        As in :func:`advise`.

    Raises
    ------
    UsageError
        Fewer than three mixes are asked for (E-U22).
    InputDataError
        The corpora are too small (E-B06).
    """
    if n_mixes < 3:
        raise UsageError("E-U22", f"n_mixes={n_mixes}", fix="pass 3 or more; 12 say something")
    plan, base = _opened(advice.plan, base)
    second = _on(plan, advice.target, "second")
    have = _start_cells(second, advice.start, base)
    names = list(plan.corpora)
    shares = _fixed(second, have, advice.n_cells, n_mixes, base)
    best = np.array([advice.best[n] for n in names])
    equal = np.full(len(names), 1 / len(names))
    rows = np.concatenate([shares, best[None], equal[None]])
    values = _scored(
        second,
        CHECK,
        rows,
        have,
        advice.n_cells,
        advice.target,
        out,
        base,
        executor,
        progress,
        last=("advised", EQUAL),
    )
    profiles = Profiles(_on(plan, advice.target, "first"), advice.target, base)
    table = pd.DataFrame(rows, columns=names, index=values.index)
    table["value"], table["coverage"] = values["value"], values["coverage"]
    table["gain"] = advice.regression(rows) - advice.regression(equal[None])[0]
    table["similarity"] = profiles(rows, have, advice.n_cells)
    fixed = table.iloc[:n_mixes]
    tested = {"advisor": "gain", "similarity": "similarity", "coverage": "coverage"}
    ranks = pd.DataFrame(
        {name: ranked(fixed[column], fixed["value"]) for name, column in tested.items()}
    ).T
    ranks["n_mixes"] = n_mixes
    return AdviceCheck(
        table,
        ranks,
        difference(fixed["gain"], fixed["similarity"], fixed["value"]),
        (
            float(table["value"].iloc[-2] - table["value"].iloc[-1]),
            float(table["gain"].iloc[-2]),
        ),
    )


# --- runs of mixes ----------------------------------------------------------------------------


def _opened(plan: Plan | str | Path, base: str | Path | None) -> tuple[Plan, Path]:
    if not isinstance(plan, Plan):
        base = Path(plan).resolve().parent if base is None else base
        plan = Plan.from_toml(plan)
    return plan, Path("." if base is None else base).resolve()


def _require(name: str, known: Mapping[str, Any], what: str) -> None:
    if name not in known:
        raise UsageError(
            "E-B07",
            f"the plan has no {what} {name!r}",
            why=f"it has {', '.join(known)}",
            fix=did_you_mean(name, list(known)) or "name one of these",
        )


def _on(plan: Plan, target: str, half: str) -> Plan:
    """Return the plan on one half of one evaluation set, by its first model."""
    of = dataclasses.replace(plan.evaluation[target], half=half)
    return dataclasses.replace(plan, evaluation={target: of}, models=plan.models[:1], sizes=())


def _start_cells(plan: Plan, start: str, base: Path) -> dict[str, int]:
    """Cells of every corpus that are there already."""
    found = dict.fromkeys(plan.corpora, 0)
    if start:
        mix = next(m for m in plan.mixes if m.name == start)
        found |= mix.sizes(plan.n_cells or smallest(plan, base))
    return found


def _factor(
    plan: Plan, have: Mapping[str, int], n_cells: int, proxy_cells: int | None, base: Path
) -> float:
    """Share of the cells of a large run that a small one has; every corpus has enough for it."""
    room = {n: len(pool_of(plan, n, base).rows) / (have[n] + n_cells) for n in plan.corpora}
    least = min(room, key=lambda n: room[n])
    factor = min(_SHARE, room[least]) if proxy_cells is None else proxy_cells / n_cells
    if factor > min(room[least], 1) or factor * n_cells < FEWEST:
        raise InputDataError(
            "E-B06",
            f"small runs of {int(factor * n_cells):,} cells cannot be made",
            where=least,
            why=f"{least} has {len(pool_of(plan, least, base).rows):,} cells, and each corpus "
            f"alone is one of the mixes; below {FEWEST} cells they say nothing",
            fix="lower proxy_cells, raise n_cells, or leave the corpus out of the plan",
        )
    return factor


def _scored(
    plan: Plan,
    what: str,
    shares: NDArray[np.floating],
    have: Mapping[str, int],
    n_cells: int,
    target: str,
    out: str | Path,
    base: Path,
    executor: Executor | None,
    progress: Progress | None,
    last: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Train and score mixes; return ``value`` and ``coverage``, means over seeds, of each."""
    total = sum(have.values()) + n_cells
    names = [f"{what} {i}" for i in range(len(shares) - len(last))] + list(last)
    mixes = tuple(
        Mix(
            name,
            {
                corpus: (have[corpus] + n_cells * share) / total
                for corpus, share in zip(plan.corpora, row, strict=True)
                if have[corpus] + n_cells * share > 0
            },
            total,
        )
        for name, row in zip(names, shares, strict=True)
    )
    asked = dataclasses.replace(
        plan, name=f"{plan.name} {what} of {target}", mixes=mixes, baseline=names[0], coverage=True
    )
    done = run(asked, out, base=base, executor=executor, progress=progress)
    table = results(done.store, asked.name)
    model = asked.models[0].shown
    table = table[
        (table["evaluation"] == target) & (table["part"] == "") & (table["model"] == model)
    ]
    found = pd.DataFrame(index=pd.Index(names, name="mix"))
    for column, metric in (("value", main_metric(plan)), ("coverage", "coverage_cells")):
        of = table[table["metric"] == metric]
        found[column] = of.groupby("mix")["value"].mean().reindex(names)
    if missing := found.index[found["value"].isna()].tolist():
        raise UsageError(
            "E-B13",
            f"{len(missing)} of {len(names)} mixes have no score",
            where=str(out),
            why="; ".join(reasons_of(done.store, asked.name)[:2]) or ", ".join(missing[:3]),
            fix="put that right, then the same command again",
        )
    return found


# --- mixes that there are cells for -----------------------------------------------------------


def _possible(
    plan: Plan,
    shares: NDArray[np.floating],
    have: Mapping[str, int],
    n_cells: int,
    base: Path,
) -> NDArray[np.floating]:
    room = np.array([len(pool_of(plan, n, base).rows) - have[n] for n in plan.corpora])
    return shares[(np.ceil(shares * n_cells) <= room).all(axis=1)]


def _candidates(
    plan: Plan, have: Mapping[str, int], n_cells: int, base: Path
) -> NDArray[np.floating]:
    """Mixes among which the best is looked for, each once."""
    n = len(plan.corpora)
    rng = np.random.default_rng(settings.stream_seed("advice-candidates", 0))
    every = np.concatenate(
        [designed(n, 1 + n + n * (n - 1) // 2, rng), drawn(n, _CANDIDATES, rng)]
    )
    found = np.unique(_possible(plan, every, have, n_cells, base).round(6), axis=0)
    if not len(found):
        raise _too_few(plan, n_cells, base)
    return found


def _fixed(
    plan: Plan, have: Mapping[str, int], n_cells: int, n_mixes: int, base: Path
) -> NDArray[np.floating]:
    """Mixes of full runs: drawn by a seed of their own, whatever small runs gave."""
    rng = np.random.default_rng(settings.stream_seed("advice-check", 0))
    every = drawn(len(plan.corpora), 200 * n_mixes, rng)
    possible = _possible(plan, every, have, n_cells, base)
    _, order = np.unique(possible, axis=0, return_index=True)
    if len(order) < n_mixes:
        raise _too_few(plan, n_cells, base)
    return possible[np.sort(order)[:n_mixes]]


def _too_few(plan: Plan, n_cells: int, base: Path) -> InputDataError:
    sizes = {n: len(pool_of(plan, n, base).rows) for n in plan.corpora}
    return InputDataError(
        "E-B06",
        f"the corpora have too few cells for mixes of {n_cells:,}",
        where=plan.name,
        why=", ".join(f"{n} has {k:,}" for n, k in sizes.items()),
        fix="lower n_cells",
    )
