"""What happens in the process of a run."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome import plugins, settings
from episome.benchmark._case import Case, for_training, only
from episome.benchmark._data import COARSE, DONOR, LABEL, TARGET, TERM, parts_of
from episome.benchmark._guard import find_leaks, require_no_leaks
from episome.benchmark._load import load_data
from episome.benchmark._store import RunResult
from episome.errors import EpisomeError, InputDataError, UsageError
from episome.io import provenance

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.benchmark._data import TaskData
    from episome.benchmark._runs import Run
    from episome.benchmark._tasks import Task

#: Tasks of the host; plugins register others.
TASKS = {
    "annotation": "episome.benchmark._tasks:AnnotationTask",
    "label-efficiency": "episome.benchmark._tasks:LabelEfficiencyTask",
    "imbalance": "episome.benchmark._tasks:ImbalanceTask",
    "robustness": "episome.benchmark._tasks:RobustnessTask",
    "novelty": "episome.benchmark._tasks:NoveltyTask",
    "groups": "episome.benchmark._groups:GroupsTask",
    "ensemble": "episome.benchmark._groups:EnsembleTask",
    "gene-panel": "episome.benchmark._genes:GenePanelTask",
    "cross-modality": "episome.benchmark._modality:CrossModalityTask",
    "reconstruction": "episome.benchmark._reconstruction:ReconstructionTask",
    "embedding": "episome.benchmark._embedding:EmbeddingTask",
    "integration": "episome.benchmark._embedding:IntegrationTask",
}


def task_named(name: str) -> Task:
    """Return a task of the host or of a plugin.

    Raises
    ------
    UsageError
        There is no such task (E-B11).
    """
    others = {k: s.target for k, s in plugins.tasks().items()}
    known = {**others, **TASKS}
    if name not in known:
        raise UsageError(
            "E-B11",
            f"there is no task {name!r}",
            why=f"the tasks are {', '.join(sorted(known))}",
            fix="use one of them",
        )
    found: Task = plugins.load_object(known[name])()
    return found


def perform(run: Run) -> RunResult:
    """Train, predict and score; what goes wrong becomes the reason of the result.

    Parameters
    ----------
    run
        What to do.
    """
    started, wall = time.perf_counter(), time.time()
    facts: dict[str, Any] = {
        "data_sha256": run.data_sha256,
        "model_version": run.model_version,
        "versions": ", ".join(f"{k} {v}" for k, v in provenance()["versions"].items() if v),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall)),
    }
    case: Case | None = None

    def ended(status: str, reason: str = "", **more: Any) -> RunResult:
        cost = _cost(facts, case, started)
        return RunResult(run.digest, run.key, status, reason, facts=cost, **more)

    try:
        with settings.using_seed(run.seed):
            case, leaks, unknowns = case_of(run)
            facts |= {"n_train": case.train.n_obs, "n_test": case.test.n_obs, "leaks": leaks}
            facts |= unknowns
            outcome = task_named(run.task).run(case)
    except EpisomeError as error:
        refused = error.problems[0].code == "E-L20"
        return ended("refused" if refused else "failed", str(error))
    except MemoryError as error:
        return ended("out of memory", f"there is no memory: {error}")
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the study goes on
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return ended("failed", f"{type(error).__name__}: {error} ({place})")
    scores = {(c, m): v for c, found in outcome.scores.items() for m, v in found.items()}
    return ended("ok", scores=scores, predictions=outcome.predictions)


def case_of(run: Run) -> tuple[Case, str, dict[str, Any]]:
    """Return what the task of a run works on, the leaks that are allowed, and what is not known.

    The last are the facts ``donors``, ``n_no_donor`` (cells of both parts without one) and
    ``n_unseen`` (test cells left out, as training lacks their type).

    Raises
    ------
    InputDataError
        Something is in both parts that the study does not allow (E-L20).
    """
    base = None if run.base is None else Path(run.base)
    task = task_named(run.task)
    data = load_data(run.entry, base, labels=task.needs_labels)
    chosen = None
    for fold, train, test in parts_of(data, run.split, run.seed):
        if fold == run.fold:
            chosen = train, test
    if chosen is None:
        raise InputDataError("E-B06", f"there is no fold {run.fold}", where=run.entry.name)
    rows, held = chosen
    train, test = data.cells[rows], (data.cells if data.query is None else data.query)[held]
    leaks = find_leaks(train, test, donor_key=data.donor_key)
    require_no_leaks(leaks, run.split.allow, where=f"{run.entry.name}, {run.split.name}")
    batch = () if run.entry.batch_key is None else (run.entry.batch_key,)
    asked = (*batch, *task.columns(dict(run.options)))
    said = [c for c in dict.fromkeys((LABEL, DONOR, TERM, COARSE, *asked)) if c in test.obs]
    array = plugins.get_spec(run.model.model).obsm_key
    case = Case(
        for_training(train, asked, (array, TARGET)),
        only(test, batch, (array,)),
        test.obs[said].copy(),
        run.entry,
        run.model,
        run.seed,
        run.condition,
        run.options,
        run.compute,
        measured=test.obsm.get(TARGET),
        base=base,
    )
    unknowns = {"donors": "unknown", "n_unseen": _unseen(data, train, test)}
    if data.donor_key is not None:
        nobody = [int(part.obs[DONOR].isna().sum()) for part in (train, test) if DONOR in part.obs]
        unknowns |= {"donors": "known", "n_no_donor": sum(nobody)}
    return case, "; ".join(leak.text for leak in leaks), unknowns


def _unseen(data: TaskData, train: AnnData, test: AnnData) -> int:
    """Return how many test cells the split left out, as training lacks their type."""
    if data.query is not None:
        return data.n_unseen
    # The two parts of every split, a fold's too, hold all other cells.
    return int(data.cells.n_obs - train.n_obs - test.n_obs)


def _cost(facts: dict[str, Any], case: Case | None, started: float) -> dict[str, Any]:
    seconds = {} if case is None else case.seconds
    return {
        **facts,
        "pretrain_seconds": seconds.get("pretrain"),
        "train_seconds": seconds.get("train"),
        "predict_seconds": seconds.get("predict"),
        "seconds": time.perf_counter() - started,
    }
