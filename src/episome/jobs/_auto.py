"""Which installed annotator is right for this reference: compare them on held-out cells."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import plugins, settings
from episome.data import clean_labels, combined_column, definite_donors, folds, obs_column
from episome.errors import UsageError
from episome.jobs._trials import Trial, best_pair, scores_of, try_model
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.models import Ensemble, EpisomeModel

logger = get_logger(__name__)

#: Cells that are compared on; of more a sample of whole donors, or of every class.
MAX_CELLS = 20_000
N_FOLDS = 3
#: Models this far behind after the first part are not tried on the others.
BEHIND = 0.10
#: Smaller differences in macro F1 are decided by the likelihood of the calibrated probabilities.
SAME = 0.005
#: A training of epochs may take this part of the time that is left, while others wait.
SHARES = 4

COLUMNS = ("model", "macro_f1", "low", "high", "accuracy", "nll", "ece", "seconds", "reason")


@dataclass(frozen=True, slots=True)
class AutoResult:
    """What the comparison chose, and why.

    Parameters
    ----------
    model
        The chosen model, or the ensemble, trained on all labelled cells.
    chosen
        Names of the spec, or of the specs of the ensemble.
    table
        One row per candidate, best first: ``model``, ``macro_f1`` with its interval (``low``,
        ``high``), ``accuracy``, ``nll`` and ``ece`` of calibrated probabilities on held-out
        cells, ``seconds`` (to train and predict on them), ``reason``. NaN where it was not tried.
    reason
        One line.
    held_out
        How cells were held out, in words.
    """

    model: EpisomeModel | Ensemble
    chosen: tuple[str, ...]
    table: pd.DataFrame
    reason: str
    held_out: str


@dataclass(slots=True)
class Arena:
    """The cells, the folds and the clock of one comparison."""

    adata: AnnData
    setup: dict[str, Any]
    truth: NDArray[np.object_]
    donors: NDArray[np.object_] | None
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
    deadline: float
    by: str
    say: Callable[[str], None]
    trials: dict[str, Trial] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.deadline - time.monotonic()


def train_auto(
    adata: AnnData,
    labels_key: str,
    *,
    donor_key: str | list[str] | None = None,
    models: str | Sequence[str] | None = None,
    time_budget: float = 600.0,
    ensemble: bool = True,
    max_cells: int = MAX_CELLS,
    progress: Callable[[str], None] | None = None,
    train_kwargs: dict[str, Any] | None = None,
    **setup: Any,
) -> AutoResult:
    """Compare the installed annotators on held-out cells and train the best on all of them.

    Cells are held out in three parts, by donor where there are three donors none of which is the
    only one of a class. All candidates are tried on the first part, cheap ones first; those
    within 0.10 macro F1 of the best are tried on the others as well, while time is left. The
    highest macro F1 on cells that all of them held out wins; of those within 0.005 the likelihood
    of the calibrated probabilities decides. The mean of the two best is taken where it is better
    by more than that.

    Parameters
    ----------
    adata
        Labelled cells; nothing but scvi-tools' bookkeeping is written to it.
    labels_key, donor_key
        Columns of ``obs``.
    models
        Names to compare; default every installed annotator.
    time_budget
        Seconds for the comparison. The last training comes on top. A model of epochs that needs
        more than a quarter of what is left, while others wait, is stopped; one of a single fit
        cannot be.
    ensemble
        Whether the mean of the two best may win.
    max_cells
        Cells that are compared on.
    progress
        Called with one line when something is known.
    train_kwargs
        Of every model's ``train``: ``accelerator``, ``devices``.
    **setup
        Of ``setup_anndata``: ``layer``, ``unlabeled``, ``input_kind``, ...

    Returns
    -------
    An :class:`AutoResult`.

    Raises
    ------
    UsageError
        No model could be tried (E-U75), arguments that make no sense (E-U22).
    InputDataError, LabelError
        The cells cannot be used by any model.
    """
    if not (math.isfinite(time_budget) and time_budget > 0):
        raise UsageError("E-U22", f"time_budget={time_budget!r}", fix="pass seconds, such as 600")
    setup = {"labels_key": labels_key, "donor_key": donor_key, **setup}
    arena = arena_of(adata, setup, max_cells, time_budget, progress)
    names = _candidates() if models is None else _asked(models)
    first = arena.parts[:1]
    for i, name in enumerate(names):
        _try(arena, name, first, train_kwargs, n_left=len(names) - i)
    contenders = _contenders(arena)
    for part in arena.parts[1:]:  # part by part: when the time is up, the same cells are known
        for name in contenders:
            _try(arena, name, [part], train_kwargs, n_left=1)
    table, chosen, reason = _verdict(arena, ensemble=ensemble)
    logger.info("%s: %s", " + ".join(chosen), reason)
    model = _train(adata, setup, chosen, train_kwargs)
    facts = {"chosen": list(chosen), "reason": reason, "held_out": arena.by}
    for member in getattr(model, "members", (model,)):
        rows = table.astype(object).where(table.notna(), None)
        member.fit_["auto"] = facts | {"table": rows.to_dict("records")}
    return AutoResult(model, chosen, table, reason, arena.by)


def _asked(models: str | Sequence[str]) -> list[str]:
    """Names that the caller gave, the cheap ones first; only annotators."""
    names = [models] if isinstance(models, str) else list(models)
    if not names or not all(isinstance(n, str) for n in names):
        raise UsageError(
            "E-U75",
            f"models={models!r} names no models",
            fix="pass names that `episome plugins` lists",
        )
    specs = {n: plugins.get_spec(n) for n in dict.fromkeys(names)}
    others = [n for n, s in specs.items() if "annotation" not in s.capabilities]
    if others:
        raise UsageError(
            "E-U75",
            "models that annotate no cells",
            count=len(others),
            total=len(specs),
            examples=others,
            fix="leave them out",
        )
    return sorted(specs, key=lambda n: "floor" not in specs[n].tags)


def _candidates() -> list[str]:
    """Every installed annotator, the cheap ones first."""
    specs = plugins.models()
    known = {n: s for n, s in specs.items() if "annotation" in s.capabilities}
    return sorted(known, key=lambda n: ("floor" not in known[n].tags, n))


def arena_of(
    adata: AnnData,
    setup: dict[str, Any],
    max_cells: int,
    time_budget: float = math.inf,
    progress: Callable[[str], None] | None = None,
) -> Arena:
    """Choose the cells that are compared on, and how they are held out."""
    deadline = time.monotonic() + time_budget
    blank = str(setup.get("unlabeled_category", "unknown"))
    column = obs_column(adata, setup["labels_key"])
    labels = np.asarray(
        clean_labels(column, unlabeled_category=blank, unlabeled="keep"), dtype=object
    )
    donors = None
    if setup.get("donor_key") is not None:
        donors = definite_donors(combined_column(adata, setup["donor_key"]))
    rows = np.flatnonzero(labels != blank)
    classes, codes = np.unique(labels[rows].astype(str), return_inverse=True)
    if len(classes) < 2:
        raise UsageError(
            "E-U75",
            f"column {setup['labels_key']!r} names fewer than two types",
            fix="pass the column of cell types as labels_key",
        )
    seed = settings.stream_seed("split", bits=32)
    if len(rows) > max_cells:
        kept = _sample(codes, max_cells, seed)
        rows, codes = rows[kept], codes[kept]
    of = None if donors is None else donors[rows]
    parts = list(folds(codes, of, seed=seed, n_folds=N_FOLDS))
    apart = of is not None and not any(set(of[f]) & set(of[h]) - {None} for f, h in parts)
    part = adata[rows].copy() if len(rows) < adata.n_obs else adata
    n_donors = 0 if of is None else len({d for d in of if d is not None})
    by = (
        f"{n_donors} donors in {len(parts)} parts, none in two of them"
        if apart
        else f"{len(parts)} parts, cells drawn within types"
    )
    say = progress or (lambda line: logger.info("%s", line))
    return Arena(part, setup, labels[rows], of, parts, deadline, by, say)


def _sample(codes: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Positions of about ``n`` cells: the same share of every type, and so of every donor."""
    rng = np.random.default_rng(seed)
    kept = []
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        wanted = min(len(members), max(30, round(len(members) * n / len(codes))))
        kept.append(rng.choice(members, wanted, replace=False))
    return np.sort(np.concatenate(kept))


def _try(
    arena: Arena,
    name: str,
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    train_kwargs: dict[str, Any] | None,
    *,
    n_left: int,
) -> None:
    trial = arena.trials.setdefault(name, Trial(name, len(arena.truth)))
    if trial.problem:
        return
    for fitted, held in parts:
        if arena.left <= 0 or trial.seconds / max(trial.n_parts, 1) > arena.left:
            if not trial.n_parts:
                trial.problem, trial.is_late = "not tried: the time was used up", True
            return
        try_model(
            trial,
            arena.adata,
            arena.setup,
            fitted,
            held,
            seconds=arena.left / min(max(n_left, 1), SHARES),
            train_kwargs=train_kwargs or {},
        )
        if trial.problem:
            arena.say(f"{name}: {trial.problem}")
            return
        if arena.left < 0:
            arena.say(
                f"{name} went on for {-arena.left:.0f} s after the time was used up: one that is "
                "fitted at once cannot be stopped"
            )
    found = scores_of(trial, arena.truth, arena.donors)
    arena.say(
        f"{name}: macro F1 {found['macro_f1']:.3f}, {trial.seconds:.1f} s, "
        f"{trial.n_parts} of {len(arena.parts)} parts"
    )


def _contenders(arena: Arena) -> list[str]:
    """Names that are near the best after the first part, the fastest first."""
    f1 = {
        t.name: scores_of(t, arena.truth, None)["macro_f1"]
        for t in arena.trials.values()
        if t.n_parts and not t.problem
    }
    if not f1:
        problems = [f"{t.name}: {t.problem}" for t in arena.trials.values()]
        late = any(t.is_late for t in arena.trials.values())
        raise UsageError(
            "E-U75",
            "no model could be trained on these cells",
            count=len(problems),
            total=len(problems),
            examples=problems[:3],
            fix="raise time_budget (--time-budget)"
            if late
            else "train one of them by name, to see its whole message",
        )
    near = [n for n, value in f1.items() if value >= max(f1.values()) - BEHIND]
    return sorted(near, key=lambda n: arena.trials[n].seconds)


def _verdict(arena: Arena, *, ensemble: bool) -> tuple[pd.DataFrame, tuple[str, ...], str]:
    """Return the table, the names that won, and why."""
    done = [t for t in arena.trials.values() if t.n_parts and not t.problem]
    most = max(t.n_parts for t in done)
    full = _on_the_same_cells(arena, done, most)
    rows = {t.name: scores_of(t, arena.truth, arena.donors) for t in [*done, *full]}
    top = max(rows[t.name]["macro_f1"] for t in full)
    near = [t for t in full if rows[t.name]["macro_f1"] >= top - SAME]
    best = min(near, key=lambda t: rows[t.name]["nll"])
    n_held = int(best.said.sum())
    reason = f"macro F1 {rows[best.name]['macro_f1']:.3f} on {n_held:,} held-out cells"
    reason += f", the best of {len(done)}"
    if len(near) > 1:
        reason += f"; {len(near)} within {SAME:g}, its probabilities are the likeliest"
    chosen: tuple[str, ...] = (best.name,)
    pair = best_pair(full, arena.truth, rows) if ensemble and len(full) > 1 else None
    if pair is not None and pair.scores["macro_f1"] > rows[best.name]["macro_f1"] + SAME:
        chosen = pair.names
        reason = (
            f"macro F1 {pair.scores['macro_f1']:.3f} on {n_held:,} held-out cells as the mean of "
            f"two; the best alone, {best.name}, has {rows[best.name]['macro_f1']:.3f}"
        )
    if n_held < len(arena.truth):
        reason += f" ({n_held / len(arena.truth):.0%} of them: there was no time for all parts)"
    records = [
        {
            "model": t.name,
            **rows.get(t.name, dict.fromkeys(COLUMNS[1:7], math.nan)),
            "seconds": round(t.seconds, 2),
            "reason": _why(t, rows, chosen, top, {f.name for f in full}),
        }
        for t in arena.trials.values()
    ]
    if pair is not None:
        seconds = sum(arena.trials[n].seconds for n in pair.names)
        why = "chosen" if chosen == pair.names else "no better than the best alone"
        record = {"model": " + ".join(pair.names), **pair.scores, "seconds": round(seconds, 2)}
        records.append({**record, "reason": why})
    table = pd.DataFrame(records, columns=list(COLUMNS))
    order = ["macro_f1", "seconds"]
    table = table.sort_values(order, ascending=[False, True], na_position="last")
    return table.reset_index(drop=True), chosen, reason


def _on_the_same_cells(arena: Arena, done: Sequence[Trial], most: int) -> list[Trial]:
    """Return the candidates that the choice is between, on cells that all of them held out.

    Those that were tried on most parts; and one with fewer that was better on its cells than all
    of these are there, which time alone would exclude: then only those cells count.
    """
    full = [t for t in done if t.n_parts == most]
    ahead = []
    for late in (t for t in done if t.n_parts < most):
        shared = [scores_of(t.among(late.said), arena.truth, None)["macro_f1"] for t in full]
        if scores_of(late, arena.truth, None)["macro_f1"] > max(shared) + SAME:
            ahead.append(late)
    cells = np.logical_and.reduce([t.said for t in [*full, *ahead]])
    return [t.among(cells) for t in [*full, *ahead]]


def _why(
    trial: Trial,
    rows: dict[str, dict[str, float]],
    chosen: tuple[str, ...],
    top: float,
    compared: set[str],
) -> str:
    if trial.problem:
        return trial.problem
    if trial.name in chosen:
        return "chosen" if len(chosen) == 1 else "a part of what is chosen"
    behind = top - rows[trial.name]["macro_f1"]
    if trial.name not in compared:
        late = behind <= BEHIND
        return "no time for all parts" if late else f"{behind:.3f} behind on the first part"
    if behind <= SAME:
        return "as good, with less likely probabilities"
    return f"{behind:.3f} behind"


def _train(
    adata: AnnData,
    setup: dict[str, Any],
    chosen: tuple[str, ...],
    train_kwargs: dict[str, Any] | None,
) -> EpisomeModel | Ensemble:
    from episome.models import Ensemble

    members = []
    for name in chosen:
        cls = plugins.load_class(plugins.get_spec(name))
        cls.setup_anndata(adata, **setup)
        members.append(cls(adata))
    model = members[0] if len(members) == 1 else Ensemble(members)
    model.train(**(train_kwargs or {}))
    return model
