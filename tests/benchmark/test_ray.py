"""Runs on a local cluster of Ray give what this machine gives."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import pytest
from _studies import study

from episome.benchmark import ModelEntry, RayExecutor, perform, run_study
from episome.errors import MissingDependencyError

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="Ray is not installed: the extra episome[tune]")


@pytest.fixture(scope="module")
def cluster():
    """Two workers, which tests share."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def workers() -> list[int]:
    """Process numbers of the workers that do a run."""
    import psutil

    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "_perform" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


@pytest.mark.usefixtures("cluster")
def test_the_results_are_those_of_this_machine(folder, tmp_path):
    found = run_study(study(), tmp_path, base=folder, executor=RayExecutor())

    assert found.counts == {"ok": 2}
    table = found.store.table()
    for run in found.planned.runs:
        here = perform(run)
        there = table[table["run"] == run.digest].set_index("metric")["value"]
        assert {m: v for (_, m), v in here.scores.items()} == pytest.approx(
            dict(there), nan_ok=True
        )
        assert found.store.predictions(run.digest).equals(here.predictions)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_is_replaced(folder, tmp_path):
    killed = []

    def kill():
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    slow = ModelEntry("mlp", train={"max_epochs": 30, "accelerator": "cpu"})
    found = run_study(
        study(models=(slow, "centroid")), tmp_path, base=folder, executor=RayExecutor(retries=2)
    )
    killer.join()

    assert killed
    assert found.counts == {"ok": 2}


@pytest.mark.usefixtures("cluster")
def test_a_run_that_takes_too_long_is_a_row(folder, tmp_path):
    endless = {"max_epochs": 100_000, "early_stopping": False, "accelerator": "cpu"}
    slow = ModelEntry("mlp", train=endless)

    again = ModelEntry("mlp", "slow again", train=slow.train)
    found = run_study(
        study(models=(slow, again), timeout=3.0),
        tmp_path,
        base=folder,
        executor=RayExecutor(),
    )

    assert found.counts == {"timeout": 2}


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MissingDependencyError, match=r"episome\[tune\].*E-P02"):
        RayExecutor()
