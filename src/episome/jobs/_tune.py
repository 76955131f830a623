"""Search for settings of one model on held-out cells, several at a time, with Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import plugins, resources, settings
from episome.benchmark import ray_cluster, require_ray
from episome.data import check_inputs, name_cells, read_cells
from episome.errors import UsageError
from episome.io import check_model_output, records
from episome.jobs._arguments import known_arguments, require_preset
from episome.jobs._auto import MAX_CELLS, SAME, arena_of
from episome.jobs._inputs import named_columns, require_columns_of_file, shown_name
from episome.jobs._trials import Trial, scores_of, try_model
from episome.log import get_logger

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.jobs._auto import Arena
    from episome.models import EpisomeModel, TuningSpace

logger = get_logger(__name__)

_NO_TIME = "not tried: the time was used up"
#: Of the settings that are tried on one part, so many go on to the next.
KEPT = 1 / 3
KINDS = ("model", "train", "plan")
COLUMNS = ("trial", "macro_f1", "low", "high", "nll", "ece", "parts", "seconds", "reason")


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What ``episome tune`` is asked for.

    Parameters
    ----------
    method
        Name of an installed annotator.
    input
        File of labelled cells.
    output
        Folder of the model that is trained with the best settings on all cells.
    setup
        Of the model's ``setup_anndata``: ``labels_key``, ``donor_key``, ...
    space
        What is tried, see ``episome.models.TuningSpace``; default the model's own.
    n_trials
        Number of settings; the first are the model's defaults.
    time_budget
        Seconds after which no new setting is tried; ``None``: no limit. The last training comes
        on top.
    n_workers
        Settings that are tried at a time; default one per core, or per GPU.
    model, train
        Arguments that every setting has in common.
    overwrite, seed, max_memory, trust
        As for ``TrainRequest``.
    max_cells
        Cells that are compared on.
    """

    method: str
    input: Path
    output: Path
    setup: Mapping[str, object]
    space: TuningSpace | None = None
    n_trials: int = 12
    time_budget: float | None = None
    n_workers: int | None = None
    model: Mapping[str, object] = field(default_factory=dict)
    train: Mapping[str, object] = field(default_factory=dict)
    overwrite: bool = False
    seed: int | None = None
    max_memory: int | None = None
    trust: bool = False
    max_cells: int = MAX_CELLS


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What a search found.

    Parameters
    ----------
    output
        Folder of the trained model.
    chosen
        The settings that won, by name; empty: the defaults.
    table
        One row per setting, best first: ``trial`` (0: the defaults), scores on held-out cells,
        ``parts`` of them that it was tried on, ``seconds``, ``reason``, and the settings.
    reason
        One line.
    held_out
        How cells were held out, in words.
    """

    output: Path
    chosen: dict[str, object]
    table: pd.DataFrame
    reason: str
    held_out: str


def tune(
    request: TuneRequest, *, progress: Callable[[int, int], None] | None = None
) -> TuneResult:
    """Try settings of one annotator on held-out cells, and train it with the best on all.

    Cells are held out in three parts, by donor where that is possible. All settings are tried on
    the first part, the best third of them on the second, the best third of these on the third
    (successive halving). Highest macro F1 on the most parts wins; of those within 0.005 the
    likelihood of the calibrated probabilities decides.

    Parameters
    ----------
    request
        What to do.
    progress
        Called with ``(settings done, settings)``.

    Raises
    ------
    UsageError
        There is nothing to try (E-U99), or arguments are unknown (E-U24).
    MissingDependencyError
        Ray is not installed: ``pip install "episome[tune]"`` (E-P02).
    EpisomeError
        As for ``train``.
    """
    with settings.using_seed(request.seed):
        return _tune(request, progress)


def _tune(request: TuneRequest, progress: Callable[[int, int], None] | None) -> TuneResult:
    spec = plugins.get_spec(request.method)
    check_inputs(request.input)
    check_model_output(request.output, overwrite=request.overwrite)
    if "annotation" not in spec.capabilities:
        raise UsageError(
            "E-U99",
            f"{spec.name} annotates no cells",
            why="settings are compared by the macro F1 of held-out cells",
            fix="name an annotator",
        )
    require_ray()
    cls = plugins.load_class(spec)
    setup = known_arguments(
        cls.setup_anndata, request.setup, f"{spec.name} (set-up)", exactly=True
    )
    known_arguments(cls.__init__, request.model, spec.name, option="--set")
    require_preset(cls, request.model)
    cls.check_train_arguments(
        known_arguments(cls.train, request.train, f"{spec.name} (train)", of=cls)
    )
    has_donors = setup.get("donor_key") is not None
    space = request.space or cls.tuning_space(has_donors=has_donors)
    candidates = _candidates(cls, request, space)
    options: dict[str, Any] = {"max_memory": request.max_memory, "trust": request.trust}
    require_columns_of_file(request.input, named_columns(setup, request.train), **options)
    adata = read_cells(request.input, **options)
    name_cells(adata, shown_name(request.input))
    arena = arena_of(adata, setup, request.max_cells)
    found = _search(request, arena, candidates, progress)
    table, best, reason = _verdict(found, candidates, arena.truth, arena.donors)
    logger.info("%s: %s", candidates[best], reason)
    facts = {"chosen": candidates[best], "reason": reason, "held_out": arena.by}
    rows = records(table)
    model_args, train_args = _arguments(candidates[best], request)
    cls.setup_anndata(adata, **setup)
    model = cls(adata, **model_args)
    model.train(**train_args)
    model.fit_["tuning"] = facts | {"table": rows}
    model.save(request.output, overwrite=request.overwrite)
    return TuneResult(request.output, candidates[best], table, reason, arena.by)


# --- what is tried --------------------------------------------------------------------------


def _candidates(
    cls: type[EpisomeModel], request: TuneRequest, space: TuningSpace
) -> list[dict[str, object]]:
    """Return the settings: the defaults, then draws, no two alike."""
    _require_space(cls, request, space)
    rng = np.random.default_rng(settings.stream_seed("tune", bits=32))
    found: list[dict[str, object]] = [{}]
    for _ in range(50 * request.n_trials):
        if len(found) >= request.n_trials:
            break
        drawn = {
            name: values.draw(rng)
            if hasattr(values, "draw")
            else values[int(rng.integers(len(values)))]
            for name, values in space.items()
        }
        if drawn not in found:
            found.append(drawn)
    return found


def _require_space(cls: type[EpisomeModel], request: TuneRequest, space: TuningSpace) -> None:
    if request.n_trials < 2 or not space:
        raise UsageError(
            "E-U99",
            f"n_trials={request.n_trials} leaves nothing to compare"
            if space
            else f"{request.method} names nothing that is worth trying",
            fix="pass n_trials of 2 or more"
            if space
            else "say what to try, e.g. space={'model.n_top_genes': (1000, 2000, 4000)} "
            "(--space model.n_top_genes=1000,2000,4000)",
        )
    for name, values in space.items():
        kind, _, key = name.partition(".")
        if kind not in KINDS or not key or (not hasattr(values, "draw") and not len(values)):
            raise UsageError(
                "E-U99",
                f"{name!r} is nothing that can be tried",
                where="space",
                fix="name model.X, train.X or plan.X, each with values or a range",
            )
    functions = {"model": cls.__init__, "train": cls.train}
    for name, values in space.items():
        kind, _, key = name.partition(".")
        some = [values.draw(np.random.default_rng(0))] if hasattr(values, "draw") else values
        for value in some:
            if kind in functions:
                where = f"space of {request.method} ({kind})"
                known_arguments(functions[kind], {key: value}, where, of=cls)
            if kind != "model":
                given = {key: value} if kind == "train" else {"plan_kwargs": {key: value}}
                cls.check_train_arguments({**request.train, **given})


def _arguments(
    chosen: Mapping[str, object], request: TuneRequest
) -> tuple[dict[str, object], dict[str, object]]:
    """Return the arguments of the model and of ``train`` of one setting."""
    model, train = dict(request.model), dict(request.train)
    plan = dict(train.get("plan_kwargs") or {})  # type: ignore[call-overload]  # a mapping
    for name, value in chosen.items():
        kind, _, key = name.partition(".")
        {"model": model, "train": train, "plan": plan}[kind][key] = value
    if plan:
        train["plan_kwargs"] = plan
    return model, train


# --- the search -----------------------------------------------------------------------------


def _one_part(
    adata: AnnData,
    shared: Mapping[str, Any],
    part: int,
    model: Mapping[str, object],
    train: Mapping[str, object],
) -> Trial:
    """Try one setting on one held-out part; runs in a worker of Ray."""
    resources.set_threads(1)
    fitted, held = shared["parts"][part]
    trial = Trial(str(shared["method"]), adata.n_obs)
    with settings.using_seed(int(shared["seed"])):
        try_model(
            trial,
            adata,
            shared["setup"],
            fitted,
            held,
            seconds=math.inf,
            train_kwargs=train,
            model_kwargs=model,
        )
    return trial


def _search(
    request: TuneRequest,
    arena: Arena,
    candidates: Sequence[Mapping[str, object]],
    progress: Callable[[int, int], None] | None,
) -> list[Trial]:
    """Try all settings on the first part, the best of them on the next."""
    budget = math.inf if request.time_budget is None else request.time_budget
    stop = time.monotonic() + budget
    trials = [Trial(request.method, len(arena.truth)) for _ in candidates]
    going_on = list(range(len(candidates)))
    shared = {
        "parts": arena.parts,
        "setup": arena.setup,
        "seed": settings.seed,
        "method": request.method,
    }
    with ray_cluster() as ray:
        cells, facts = ray.put(arena.adata), ray.put(shared)
        task = ray.remote(_one_part).options(**_share(request, ray), max_retries=0)
        for part in range(len(arena.parts)):
            jobs = {
                task.remote(cells, facts, part, *_arguments(candidates[i], request)): i
                for i in going_on
            }
            for i, found in _finished(ray, jobs, stop):
                _add(trials[i], found, arena.parts[part][1])
                if progress is not None and not part:
                    progress(sum(bool(t.n_parts or t.problem) for t in trials), len(trials))
            good = [i for i in going_on if trials[i].n_parts == part + 1]
            if not good or time.monotonic() > stop:
                break
            f1 = {i: scores_of(trials[i], arena.truth, None)["macro_f1"] for i in good}
            n_kept = max(math.ceil(len(good) * KEPT), 2)
            going_on = sorted(good, key=lambda i: -f1[i])[:n_kept]
    for trial in trials:
        if not trial.n_parts and not trial.problem:
            trial.problem = _NO_TIME
    return trials


def _share(request: TuneRequest, ray: Any) -> dict[str, float]:
    """Return what of the machine one setting gets."""
    n_gpus = float(ray.cluster_resources().get("GPU", 0))
    n_cpus = float(ray.cluster_resources().get("CPU", 1))
    workers = request.n_workers or int(n_gpus or n_cpus)
    return {
        "num_cpus": max(n_cpus / workers, 1.0) if workers < n_cpus else 1.0,
        "num_gpus": n_gpus / workers if n_gpus else 0.0,
    }


def _finished(ray: Any, jobs: Mapping[Any, int], stop: float) -> Iterator[tuple[int, Trial | str]]:
    """Yield what is done, as it is done; what is not by ``stop`` is cancelled."""
    waiting = list(jobs)
    while waiting:
        left = None if math.isinf(stop) else max(stop - time.monotonic(), 0.0)
        done, waiting = ray.wait(waiting, timeout=left)
        for job in done:
            try:
                yield jobs[job], ray.get(job)
            except ray.exceptions.RayError as error:  # a worker that was killed, say
                yield jobs[job], f"failed: {type(error).__name__}"
        if not done:
            for job in waiting:
                ray.cancel(job, force=True)
            return


def _add(trial: Trial, found: Trial | str, held: NDArray[np.int64]) -> None:
    if isinstance(found, str):
        trial.problem = found
    elif found.problem:
        trial.problem = found.problem
    else:
        trial.add(held, found.answers(), found.seconds)


# --- the verdict ----------------------------------------------------------------------------


def _verdict(
    trials: Sequence[Trial],
    candidates: Sequence[Mapping[str, object]],
    truth: NDArray[np.object_],
    donors: NDArray[np.object_] | None,
) -> tuple[pd.DataFrame, int, str]:
    """Return the table, the number of the setting that won, and why."""
    done = [i for i, t in enumerate(trials) if t.n_parts]
    if not done:
        problems = list(dict.fromkeys(t.problem for t in trials))
        raise UsageError(
            "E-U99",
            "no setting could be trained",
            count=len(trials),
            total=len(trials),
            examples=problems[:3],
            fix="raise time_budget (--time-budget)"
            if problems == [_NO_TIME]
            else "train the model once with these settings, to see its message",
        )
    most = max(trials[i].n_parts for i in done)
    rows = {i: scores_of(trials[i], truth, donors) for i in done}
    last = [i for i in done if trials[i].n_parts == most]
    top = max(rows[i]["macro_f1"] for i in last)
    near = [i for i in last if rows[i]["macro_f1"] >= top - SAME]
    best = min(near, key=lambda i: rows[i]["nll"])
    n_held = int(trials[best].said.sum())
    reason = f"macro F1 {rows[best]['macro_f1']:.3f} on {n_held:,} held-out cells, the best of "
    reason += f"{len(done)} settings"
    if best == 0:
        reason += ": the defaults"
    elif 0 in last:
        reason += f"; the defaults have {rows[0]['macro_f1']:.3f}"
    records = [
        {
            "trial": i,
            **{k: rows[i][k] if i in rows else math.nan for k in COLUMNS[1:6]},
            "parts": trial.n_parts,
            "seconds": round(trial.seconds, 2),
            "reason": "chosen" if i == best else trial.problem or ("" if i else "the defaults"),
            **candidates[i],
        }
        for i, trial in enumerate(trials)
    ]
    table = pd.DataFrame(records)
    order = ["parts", "macro_f1"]
    table = table.sort_values(order, ascending=False, na_position="last")
    return table.reset_index(drop=True), best, reason
