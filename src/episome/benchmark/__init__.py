"""Benchmarks: models x data x splits x seeds, without leaks, resumable, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.benchmark._case import Case, Outcome
    from episome.benchmark._data import (
        DONOR,
        LABEL,
        DataEntry,
        SplitEntry,
        TaskData,
        content_digest,
        parts_of,
    )
    from episome.benchmark._guard import Leak, find_leaks, require_no_leaks
    from episome.benchmark._load import load_data
    from episome.benchmark._local import LocalExecutor
    from episome.benchmark._perform import TASKS, perform, task_named
    from episome.benchmark._ray import RayExecutor, ray_cluster, require_ray
    from episome.benchmark._report import report
    from episome.benchmark._run_study import Executor, StudyResult, run_study
    from episome.benchmark._runs import Run, nothing_left, plan
    from episome.benchmark._scores import call_scores, kept_share, strict_accuracy
    from episome.benchmark._stats import (
        Comparison,
        Ranks,
        class_differences,
        class_scores,
        compare,
        ranks,
        sign_flip_test,
        summary,
        threshold_curve,
    )
    from episome.benchmark._store import ResultStore, RunResult
    from episome.benchmark._study import (
        Contrast,
        ModelEntry,
        Pretraining,
        Study,
        lineup,
        record_of,
        scale_of,
    )
    from episome.benchmark._tasks import Task

_HOME = {
    "Case": "_case",
    "Comparison": "_stats",
    "Contrast": "_study",
    "DONOR": "_data",
    "DataEntry": "_data",
    "Executor": "_run_study",
    "Leak": "_guard",
    "LABEL": "_data",
    "LocalExecutor": "_local",
    "ModelEntry": "_study",
    "Pretraining": "_study",
    "Outcome": "_case",
    "Ranks": "_stats",
    "RayExecutor": "_ray",
    "ResultStore": "_store",
    "Run": "_runs",
    "RunResult": "_store",
    "SplitEntry": "_data",
    "Study": "_study",
    "StudyResult": "_run_study",
    "TASKS": "_perform",
    "Task": "_tasks",
    "TaskData": "_data",
    "call_scores": "_scores",
    "class_differences": "_stats",
    "class_scores": "_stats",
    "compare": "_stats",
    "content_digest": "_data",
    "find_leaks": "_guard",
    "kept_share": "_scores",
    "lineup": "_study",
    "load_data": "_load",
    "nothing_left": "_runs",
    "parts_of": "_data",
    "perform": "_perform",
    "plan": "_runs",
    "ranks": "_stats",
    "record_of": "_study",
    "ray_cluster": "_ray",
    "report": "_report",
    "require_no_leaks": "_guard",
    "require_ray": "_ray",
    "run_study": "_run_study",
    "scale_of": "_study",
    "sign_flip_test": "_stats",
    "strict_accuracy": "_scores",
    "summary": "_stats",
    "task_named": "_perform",
    "threshold_curve": "_stats",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
