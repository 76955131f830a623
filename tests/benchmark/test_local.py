"""Runs in processes of their own: whatever happens to one is a row, and the others go on."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _studies import study

from episome.benchmark import (
    LocalExecutor,
    ModelEntry,
    ResultStore,
    _local,
    perform,
    plan,
    run_study,
    task_named,
)
from episome.benchmark._store import VOLATILE
from episome.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends signals")
SLOW = ModelEntry("mlp", train={"max_epochs": 5000, "accelerator": "cpu", "early_stopping": False})


def compared(table):
    return table.drop(columns=[*VOLATILE])


def test_a_process_gives_what_this_one_gives(folder, tmp_path):
    found = run_study(study(seeds=(0, 1)), tmp_path, base=folder, executor=LocalExecutor(2))

    assert found.counts == {"ok": 4}
    table = found.store.table()
    assert (table["device"] != "").all()
    assert (table["peak_mib"] > 10).all()
    assert (table["seconds"] > 0).all()
    for run in found.planned.runs:
        here = perform(run)
        there = table[table["run"] == run.digest].set_index("metric")["value"]
        assert {m: v for (_, m), v in here.scores.items()} == pytest.approx(
            dict(there), nan_ok=True
        )
        assert found.store.predictions(run.digest).equals(here.predictions)


def test_what_is_there_is_not_run_again(folder, tmp_path):
    seen = []

    def progress(done, total, run, result):
        seen.append((done, total, run.model.shown))

    run_study(study(models=("centroid",)), tmp_path, base=folder, progress=progress)
    run_study(study(models=("centroid",)), tmp_path, base=folder, progress=progress)
    assert seen == [(1, 1, "centroid")]

    run_study(study(), tmp_path, base=folder, progress=progress)
    assert seen[1:] == [(2, 2, "majority")]


def test_a_changed_model_is_run_again_and_the_others_are_not(folder, tmp_path, monkeypatch):
    from episome.benchmark import _runs

    run_study(study(), tmp_path, base=folder)
    real = _runs.version_of

    def version_of(model):
        return "changed" if model == "majority" else real(model)

    monkeypatch.setattr(_runs, "version_of", version_of)
    seen = []

    run_study(study(), tmp_path, base=folder, progress=lambda d, t, run, r: seen.append(run))

    assert [r.model.shown for r in seen] == ["majority"]


def test_a_run_that_takes_too_long_is_a_row(folder, tmp_path):
    again = dataclasses.replace(SLOW, name="slow again")
    found = run_study(study(models=(SLOW, again), timeout=3.0), tmp_path, base=folder)

    assert found.counts == {"timeout": 2}
    row = found.store.table().query("status == 'timeout'").iloc[0]
    assert row["reason"] == "took more than 3 s"
    assert row["seconds"] >= 3
    assert {"mlp", "slow again"} == set(found.store.table()["model"])


def test_a_run_that_takes_too_much_memory_is_a_row(folder, tmp_path):
    found = run_study(
        study(models=(SLOW,)), tmp_path, base=folder, executor=LocalExecutor(1, max_memory=1 << 20)
    )

    assert found.counts == {"out of memory": 1}
    assert "0.0 GiB" in found.store.table()["reason"].iloc[0]


class Killing(LocalExecutor):
    """Kills the first run as the system would."""

    signal = signal.SIGKILL
    done = False

    def _look(self, child):
        if not self.done and child.run.model.shown == "mlp":
            os.kill(child.process.pid, self.signal)
            child.process.join()
            self.done = True
        super()._look(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_run_that_dies_is_a_row_and_the_study_goes_on(folder, tmp_path, number):
    executor = Killing(1)
    executor.signal = number

    found = run_study(study(models=(SLOW, "centroid")), tmp_path, base=folder, executor=executor)

    assert found.counts == {"killed": 1, "ok": 1}
    assert number.name in found.store.table().query("status == 'killed'")["reason"].iloc[0]


def test_what_failed_is_repeated_when_that_is_asked_for(folder, tmp_path):
    quick = ModelEntry("mlp", train={"max_epochs": 1, "accelerator": "cpu"})
    small = study(models=(quick,))
    assert run_study(small, tmp_path, base=folder, executor=Killing(1)).counts == {"killed": 1}

    assert run_study(small, tmp_path, base=folder).counts == {"killed": 1}
    assert run_study(small, tmp_path, base=folder, retry_failed=True).counts == {"ok": 1}


def test_every_run_has_a_device_of_its_own(folder, tmp_path, monkeypatch):
    started = []
    real = _local._start

    def start(context, run, gpu):
        child = real(context, run, gpu)
        started.append((gpu, len([c for c in running if c.process.is_alive()])))
        running.append(child)
        return child

    running = []
    monkeypatch.setattr(_local, "_start", start)
    executor = LocalExecutor(gpus=["7", "9"])
    assert executor.jobs == 2

    found = run_study(study(seeds=(0, 1)), tmp_path, base=folder, executor=executor)

    assert [gpu for gpu, _ in started[:2]] == ["7", "9"]
    assert {gpu for gpu, _ in started} == {"7", "9"}
    assert max(n for _, n in started) <= 1
    assert set(found.store.table()["device"]) == {"gpu 7", "gpu 9"}


def test_a_number_of_jobs_that_is_none_is_refused():
    with pytest.raises(UsageError, match="E-U22"):
        LocalExecutor(0)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from _studies import study
from episome.benchmark import LocalExecutor, run_study
# Not guarded by __main__: a process of a run must not run it again.
Path("started").open("a").write("x")
run_study(study(models=("centroid", "logreg"), seeds=(0, 1)), "out", base={folder!r},
          executor=LocalExecutor(1))
"""


def test_a_runner_that_is_killed_goes_on_and_leaves_no_process(folder, tmp_path):
    tests = str(Path(__file__).parent.parent)
    (tmp_path / "go.py").write_text(SCRIPT.format(tests=tests, folder=str(folder)))
    whole = run_study(
        study(models=("centroid", "logreg"), seeds=(0, 1)), tmp_path / "whole", base=folder
    )
    store = ResultStore(tmp_path / "out")
    for n in (1, 3):
        process = subprocess.Popen([sys.executable, "go.py"], cwd=tmp_path)
        deadline = time.monotonic() + 300
        while len(store.runs()) < n and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "go.py"], cwd=tmp_path, check=True, timeout=300)

    assert (tmp_path / "started").read_text() == "xxx"
    assert compared(store.table()).equals(compared(whole.store.table()))
    runs = plan(whole_study(), task_named("annotation"), folder).runs
    assert store.runs() == sorted(r.digest for r in runs)


def whole_study():
    return study(models=("centroid", "logreg"), seeds=(0, 1))
