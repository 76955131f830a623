"""All annotators on the same splits of real sets, over fixed seeds; a table with intervals.

``EPISOME_TEST_DATA`` names the folder with ``data/*.h5ad``. Every model is trained as it comes, in
a process of its own per split, so that its peak memory is its own. What is done is kept in the
folder, and the same command goes on where it stopped.

    python tests/benchmarks/annotators.py runs/annotators [--models ...] [--splits ...] [--jobs 2]
    python tests/benchmarks/annotators.py runs/annotators --page docs/user_guide/annotators.md
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

# Before numpy: every model has one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _splits import LABEL, TASKS, parts

#: In the order in which they run; five seeds where a training takes under 20 s, three otherwise,
#: one where it takes many minutes. Fixed before anything was run.
SEEDS = {
    "majority": 5,
    "centroid": 5,
    "logreg": 5,
    "knn": 5,
    "embedding:X_pca:logreg": 5,
    "correlation": 5,
    "markers": 5,
    "linear": 5,
    "mlp": 5,
    "sims": 3,
    "sctab": 3,
    "celltypist": 3,
    "xgboost": 3,
    "scanvi": 1,
}
ERROR_RATE = 0.1


# -- one model on one split ----------------------------------------------------------------------


def work(split: str, model: str, seeds: list[int], folder: Path) -> None:
    """Train and call with every seed that is not there yet; write probabilities and costs."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    from episome import plugins, settings

    task = TASKS[split]
    train, test = parts(task)
    for seed in seeds:
        target = folder / f"{split}--{model.replace(':', '+')}--{seed}.npz"
        if target.exists():
            continue
        settings.seed = seed
        reference, query = train.copy(), test.copy()
        query.obs = query.obs[[]]
        started = time.perf_counter()
        if model.startswith("embedding:"):
            _embed(reference, query, task.donor_key)
        cls = plugins.load_class(plugins.get_spec(model))
        # Reading classes and compiling is paid once, whoever comes first.
        cls.setup_anndata(reference, labels_key=LABEL, donor_key=task.donor_key)
        trained = cls(reference)
        trained.train()
        middle = time.perf_counter()
        shares = trained.predict_proba(query)
        ended = time.perf_counter()
        raw = trained.predict_proba(query, calibrated=False)
        facts = trained.confidence_.facts
        sets = None
        if trained.confidence_.scores is not None:
            found = trained.annotate(query, error_rate=ERROR_RATE)["set"]
            sets = found.to_numpy(dtype=str)
        hierarchy = trained.class_hierarchy(sorted(set(test.obs[LABEL])))
        np.savez_compressed(
            target.with_suffix(".tmp.npz"),
            probabilities=shares.to_numpy(np.float32),
            raw=raw.to_numpy(np.float32),
            classes=np.array(shares.columns, dtype=str),
            truth=test.obs[LABEL].to_numpy(dtype=str),
            groups=_groups(test, task.donor_key),
            sets=np.array([]) if sets is None else sets,
            children=np.array([]) if hierarchy is None else hierarchy.children,
            names=np.array([] if hierarchy is None else hierarchy.names, dtype=str),
            facts=json.dumps(
                {
                    "train_seconds": middle - started,
                    "predict_seconds": ended - middle,
                    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    "n_calibration": facts.get("n_cells", 0),
                    "source": facts.get("source", ""),
                    "map": facts.get("map", ""),
                }
            ),
        )
        target.with_suffix(".tmp.npz").rename(target)


def _groups(test: object, donor_key: str | None) -> np.ndarray:
    if donor_key is None or donor_key not in test.obs:
        return np.array([], dtype=str)
    return test.obs[donor_key].astype(str).to_numpy(dtype=str)


def _embed(reference: object, query: object, donor_key: str | None) -> None:
    """Principal components of the reference, onto which the query is projected."""
    from episome import plugins

    cls = plugins.load_class(plugins.get_spec("pca"))
    cls.setup_anndata(reference, donor_key=donor_key)
    model = cls(reference)
    model.train()
    for part in (reference, query):
        part.obsm["X_pca"] = model.get_latent_representation(part)


# -- all of them ---------------------------------------------------------------------------------


def run_all(options: argparse.Namespace) -> None:
    """Run what is missing, several processes at a time."""
    options.folder.mkdir(parents=True, exist_ok=True)
    todo = []
    for model in options.models:
        for split in options.splits:
            names = [
                options.folder / f"{split}--{model.replace(':', '+')}--{s}.npz"
                for s in range(min(SEEDS[model], options.seeds))
            ]
            if not all(n.exists() for n in names):
                todo.append((split, model))
    _import_all(options.models)
    running: dict[multiprocessing.Process, tuple[str, str, float]] = {}
    while todo or running:
        while todo and len(running) < options.jobs:
            split, model = todo.pop(0)
            child = multiprocessing.get_context("fork").Process(
                target=_child, args=(split, model, options)
            )
            child.start()
            running[child] = (split, model, time.monotonic())
        multiprocessing.connection.wait([c.sentinel for c in running])
        for child in [c for c in running if not c.is_alive()]:
            split, model, started = running.pop(child)
            state = "ok" if child.exitcode == 0 else f"FAILED ({child.exitcode})"
            sys.stdout.write(f"{split} {model}: {state}, {time.monotonic() - started:.0f} s\n")
            sys.stdout.flush()


def _import_all(models: list[str]) -> None:
    """Import what all need once: a child of its own per model and split starts with it."""
    import scvi  # noqa: F401

    from episome import plugins

    for model in models:
        plugins.load_class(plugins.get_spec(model))


def _child(split: str, model: str, options: argparse.Namespace) -> None:
    """Run in a process of its own; what went wrong is in a file beside the results."""
    failed = options.folder / f"{split}--{model.replace(':', '+')}.failed"
    failed.unlink(missing_ok=True)
    failed.write_text("killed")
    try:
        work(split, model, list(range(min(SEEDS[model], options.seeds))), options.folder)
    except BaseException:
        failed.write_text(traceback.format_exc()[-3000:])
        raise
    failed.unlink()


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--splits", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5, help="only the first so many")
    parser.add_argument("--page", type=Path, help="write the table to this file; runs nothing")
    options = parser.parse_args()
    if options.page:
        from _annotators_page import write_page

        write_page(options.folder, options.page, list(SEEDS))
    else:
        run_all(options)


if __name__ == "__main__":
    main()
