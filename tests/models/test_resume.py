"""Training that is interrupted ends as training that is not."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from episome.errors import EpisomeWarning, ResourceError, UsageError
from episome.io import _atomic

N_BATCHES = 5


@pytest.fixture
def fresh(toy):
    def make(seed=0, kind="ToyModel", **setup):
        adata = toy.cells(200, seed=seed)
        cls = getattr(toy, kind)
        labels = {"labels_key": "cell_type"} if kind == "ToyModel" else {}
        cls.setup_anndata(adata, **labels, **setup)
        return cls(adata)

    return make


class At(Callback):
    """Do something after a number of batches."""

    def __init__(self, after=10**9, action=None):
        self.after, self.action = after, action

    def on_train_batch_end(self, *args):
        self.after -= 1
        if self.after < 0:
            self.action()


def interrupt():
    raise KeyboardInterrupt


def quick(model, folder=None, at=None, **kwargs):
    keeps = {} if folder is None else {"checkpoint_dir": folder, "checkpoint_every_minutes": 0}
    defaults = {"max_epochs": 4, "accelerator": "cpu", "callbacks": [at or At()]}
    model.train(**{**defaults, **keeps, **kwargs})
    return model


def assert_same(one, other):
    first, second = one.module.state_dict(), other.module.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert one.history.keys() == other.history.keys()
    for name, frame in one.history.items():
        assert frame.equals(other.history[name]), name
    timeless = [{k: v for k, v in m.fit_.items() if k != "seconds"} for m in (one, other)]
    assert timeless[0] == timeless[1]
    if one.labels is not None:
        assert one.predict_proba().equals(other.predict_proba())  # calibrated
    else:
        assert np.array_equal(one.get_latent_representation(), other.get_latent_representation())


RUNS = {
    "plain": {},
    "refit": {"refit": True},
    "plateau": {"plan_kwargs": {"lr_schedule": "plateau", "lr_patience": 0}},
    "cosine, averaged": {"plan_kwargs": {"lr_schedule": "cosine", "weight_average": 0.9}},
    "augmented": {"augment": "donor"},
    "every second epoch validates": {"check_val_every_n_epoch": 2},
    "accumulated": {"accumulate_grad_batches": 2},
    "stops early": {
        "max_epochs": 30,
        "early_stopping_patience": 2,
        "plan_kwargs": {"lr": 1e-9, "label_smoothing": 0.1},
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_ends_as_one_that_was_not(fresh, tmp_path, name):
    kwargs = RUNS[name]
    setup = {"donor_key": "donor_id"} if "augment" in kwargs else {}
    whole = quick(fresh(**setup), **kwargs)

    # at the end of an epoch, in the middle of one, in the second run where there is one
    moments = {"plain": (N_BATCHES, 3), "refit": (3, 5 * N_BATCHES + 2)}
    for done in moments.get(name, (2 * N_BATCHES + 2,)):
        folder = tmp_path / f"{done}"
        model = fresh(**setup)
        try:
            quick(model, folder, At(done, interrupt), **kwargs)
        except KeyboardInterrupt:
            assert not model.is_trained_
        resumed = quick(fresh(**setup), folder, **kwargs)
        assert_same(resumed, whole)


def test_models_without_labels_resume_too(fresh, tmp_path):
    whole = quick(fresh(kind="ToyEncoder"))
    with pytest.raises(KeyboardInterrupt):
        quick(fresh(kind="ToyEncoder"), tmp_path / "run", At(8, interrupt))

    assert_same(quick(fresh(kind="ToyEncoder"), tmp_path / "run"), whole)


def test_a_resumed_epoch_reads_only_what_was_not_done(fresh, tmp_path, monkeypatch):
    from episome.data import CellLoader

    with pytest.raises(KeyboardInterrupt):
        quick(fresh(), tmp_path / "run", At(2 * N_BATCHES + 3, interrupt))
    handed_out = []
    real = CellLoader.batch

    def counting(self, rows):
        if self.shuffle and self.epoch >= 2:
            handed_out.append((self.epoch, len(rows)))
        return real(self, rows)

    monkeypatch.setattr(CellLoader, "batch", counting)
    quick(fresh(), tmp_path / "run", max_epochs=4)

    # statistics of batch norm are estimated on loaders of their own, of epoch 0
    of_epoch = [sum(e == epoch for e, _ in handed_out) for epoch in (2, 3)]
    assert of_epoch == [N_BATCHES - 3, N_BATCHES]


def test_a_finished_run_is_read_and_not_trained(fresh, tmp_path, caplog):
    whole = quick(fresh(), tmp_path / "run", refit=True)

    def trained():
        pytest.fail("a batch was trained")

    with caplog.at_level("INFO", "episome"):
        again = quick(fresh(), tmp_path / "run", At(0, trained), refit=True)

    assert_same(again, whole)
    assert "finished already" in caplog.text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_epochs": 5}, "max_epochs"),
        ({"plan_kwargs": {"lr": 0.01}}, "plan_kwargs"),
        ({"batch_size": 16}, "batch_size"),
        ({"train_size": 0.7}, "split"),
    ],
)
def test_other_arguments_are_another_run(fresh, tmp_path, change, named):
    with pytest.raises(KeyboardInterrupt):
        quick(fresh(), tmp_path / "run", At(3, interrupt))

    model = fresh()
    with pytest.raises(UsageError, match=rf"another run.*different: .*{named}.*E-T13"):
        quick(model, tmp_path / "run", **change)

    assert not model.is_trained_
    quick(model, tmp_path / "run", resume="never", **change)


def test_other_cells_are_another_run(fresh, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quick(fresh(), tmp_path / "run", At(3, interrupt))
    one_value = fresh()
    one_value.adata.X[7, 3] += 1

    for model in (fresh(seed=1), one_value):
        with pytest.raises(UsageError, match=r"different: .*cells.*E-T13"):
            quick(model, tmp_path / "run")


def test_a_folder_to_resume_has_to_hold_a_run(fresh, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        quick(fresh(), tmp_path / "run", At(7, interrupt))

    resumed = quick(fresh(), resume=tmp_path / "run")

    assert_same(resumed, quick(fresh()))
    with pytest.raises(UsageError, match="no checkpoint to go on from.*E-T03"):
        quick(fresh(), resume=tmp_path / "nothing")
    with pytest.raises(UsageError, match="another folder than checkpoint_dir.*E-U97"):
        quick(fresh(), resume=tmp_path / "run", checkpoint_dir=tmp_path / "other")


def test_members_of_an_ensemble_have_runs_of_their_own(toy, tmp_path):
    def ensemble():
        adata = toy.cells(200)
        toy.ToyModel.setup_anndata(adata, labels_key="cell_type")
        return toy.ToyModel.ensemble(adata, n_models=2)

    whole = ensemble()
    quick(whole)
    with pytest.raises(KeyboardInterrupt):
        quick(ensemble(), tmp_path / "run", At(6 * N_BATCHES, interrupt))
    resumed = quick(ensemble(), tmp_path / "run")

    for one, other in zip(resumed.members, whole.members, strict=True):
        assert_same(one, other)


# -- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_batch_with_a_checkpoint(fresh, tmp_path, number):
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(143)))
    ours = signal.getsignal(signal.SIGTERM)
    try:
        model = fresh()
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
            quick(
                model,
                tmp_path / "run",
                At(7, lambda: (seen.append(1), os.kill(os.getpid(), number))),
                checkpoint_every_minutes=60,
            )
        assert signal.getsignal(signal.SIGTERM) is ours
        assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])

    assert len(seen) == 1
    assert not model.is_trained_
    first = []
    resumed = quick(fresh(), tmp_path / "run", At(0, lambda: first.append(1)))
    assert len(first) == 4 * N_BATCHES - 8
    assert_same(resumed, quick(fresh()))


def test_a_second_ctrl_c_stops_at_once(fresh, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second went through to the end of the batch")

    with pytest.raises(KeyboardInterrupt):
        quick(fresh(), tmp_path / "run", At(2, twice), checkpoint_every_minutes=60)

    assert not (tmp_path / "run").exists()


def kill_after(seconds, action) -> bool:
    """Run in a forked process that SIGKILL ends; whether it was still at work."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def test_kills_at_random_moments_change_nothing(fresh, tmp_path):
    whole = quick(fresh(), refit=True)
    draws, killed = random.Random(0), 0

    for _ in range(6):
        killed += kill_after(
            draws.uniform(0.02, 0.6), lambda: quick(fresh(), tmp_path / "run", refit=True)
        )
    resumed = quick(fresh(), tmp_path / "run", refit=True)

    assert killed
    assert_same(resumed, whole)


# -- disks ---------------------------------------------------------------------------------------


def test_a_full_disk_costs_no_training(fresh, tmp_path, monkeypatch):
    calls, real = [], _atomic.sync

    def full(path):
        calls.append(path)
        if 20 < len(calls) < 26:
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(_atomic, "sync", full)
    with pytest.warns(EpisomeWarning, match=r"could not be written.*last good checkpoint.*E-T06"):
        model = quick(fresh(), tmp_path / "run")

    assert len(calls) > 60  # it is tried again
    assert_same(model, quick(fresh()))
    assert_same(quick(fresh(), tmp_path / "run"), model)


def test_cells_that_vanish_keep_the_checkpoint(fresh, tmp_path):
    from episome.data import AnnDataSource

    def vanish():
        raise FileNotFoundError(2, "No such file or directory", "atlas.h5ad")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(FileNotFoundError):
        quick(
            fresh(),
            tmp_path / "run",
            At(12, lambda: patch.setattr(AnnDataSource, "read", lambda *_: vanish())),
        )

    assert_same(quick(fresh(), tmp_path / "run"), quick(fresh()))


def test_a_small_training_writes_nothing_but_its_result(fresh, tmp_path, monkeypatch):
    written, real = [], _atomic.write_folder

    from episome.train import _run_folder

    monkeypatch.setattr(
        _run_folder, "write_folder", lambda p, *a, **k: written.append(p.name) or real(p, *a, **k)
    )
    quick(fresh(), checkpoint_dir=tmp_path / "run")

    assert written == ["finished-1"]


def test_the_owner_of_a_folder_is_named(fresh, tmp_path):
    from episome.train import RunFolder

    with (
        RunFolder(tmp_path / "run").opened({}, resume="auto"),
        pytest.raises(ResourceError, match=rf"process {os.getpid()} on .*E-R05"),
    ):
        quick(fresh(), tmp_path / "run")
