"""Training that goes wrong, row by row of the catalogue of bad inputs."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from _bad_cells import cells
from _catalogue import Catalogue, marked
from _program import child, program, refused, run_to_files, tree

from episome import resources
from episome.data._disk_rows import DiskRows
from episome.errors import EpisomeWarning, ResourceError, TrainingError, UsageError
from episome.io import read_model_folder
from episome.models import LinearClassifier
from episome.train import RunFolder
from episome.train._survive import Survive

CATALOGUE = Catalogue("test_bad_training")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER = {
    "T09": "a worker is killed: cells are read by the process that trains",
    "T10": "a worker hangs: cells are read by the process that trains",
    "T12": "a GPU that is half broken: needs one",
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends signals")

TRAIN = ("train", "linear", "cells.h5ad", "--labels-key", "cell_type", "--no-refit")
TRAIN += ("--max-epochs", "6", "--batch-size", "16", "-o", "new")
RUN = Path(".new.training")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch, fresh_manager) -> Path:
    """The working folder of the user."""
    cells().write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(**setup):
    adata = cells()
    LinearClassifier.setup_anndata(adata, labels_key="cell_type", **setup)
    return LinearClassifier(adata)


def trained(of=None, **kwargs):
    of = model() if of is None else of
    options = {"max_epochs": 6, "batch_size": 16, "accelerator": "cpu", "refit": False, **kwargs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of.train(**options)
    return of


def after(n: int, action) -> None:
    """Do something after so many batches, before anything else is done about the batch."""
    real, seen = Survive.on_train_batch_end, []

    def counting(self, *args):
        seen.append(1)
        if len(seen) == n:
            action()
        real(self, *args)

    Survive.on_train_batch_end = counting


def every_batch() -> None:
    """Write a checkpoint after every batch, as if every batch took minutes."""
    real = Survive.__init__

    def init(self, *args, **kwargs):
        real(self, *args, **{**kwargs, "every_minutes": 0})

    Survive.__init__ = init


def stopped(number: int, n: int = 9, *, arguments=TRAIN, times: int = 1) -> tuple[int, str]:
    """Run the program in a process that gets a signal after so many batches."""

    def send():
        for _ in range(times):
            os.kill(os.getpid(), number)

    def run():
        after(n, send)
        return run_to_files(arguments, Path("out"), Path("err"))

    code = child(run)
    said = Path("err").read_text()
    assert Path("out").read_text() == ""
    assert "Traceback" not in said, said
    return code, said


def weights(path="new") -> dict[str, np.ndarray]:
    return read_model_folder(path).tensors


def assert_uninterrupted() -> None:
    """What the command made is what it makes at once."""
    resumed, history = weights(), read_model_folder("new").history
    assert not RUN.exists()
    assert program(*TRAIN[:-1], "whole").exit_code == 0
    whole = weights("whole")
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[k], resumed[k]) for k in whole)
    assert history == read_model_folder("whole").history


# -- losses --------------------------------------------------------------------------------------


@row("T01", "a loss that is not finite", "stops within a step; step, batch and cells are named")
def not_finite(folder):
    of = model()
    before = {k: v.clone() for k, v in of.module.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        forward = type(of.module).forward

        def spoilt(self, batch):
            out = forward(self, batch)
            return {**out, "logits": out["logits"] * torch.nan} if self.training else out

        patch.setattr(type(of.module), "forward", spoilt)
        with pytest.raises(TrainingError, match=r"epoch 0, batch 0, step 0.*first: .*E-T01"):
            trained(of)
    assert all(torch.equal(v, before[k]) for k, v in of.module.state_dict().items())
    trained(of)


@row("T02", "an absurd learning rate", "as T01; the rate is named as the cause")
def absurd_rate(folder):
    # Without a limit on gradients; with it the loss of a linear model stays finite.
    wild = {"plan_kwargs": {"lr": 1e30}, "gradient_clip_val": None}
    with pytest.raises(TrainingError, match=r"the rate is too high: lr=1e\+30.*E-T01"):
        trained(**wild)
    with pytest.raises(TrainingError, match="E-T01"):
        trained(**wild, on_nan="retry")


# -- ends ----------------------------------------------------------------------------------------


@row("T03", "SIGKILL at any moment", "the same command goes on, and its model is the same")
def killed(folder):
    arguments = (*TRAIN,)
    for n in (4, 11):

        def run(n=n):
            every_batch()
            after(n, lambda: os.kill(os.getpid(), signal.SIGKILL))
            return run_to_files(arguments, Path("out"), Path("err"))

        assert child(run) == -signal.SIGKILL
        assert not Path("new").exists()
        assert RUN.is_dir()
    done = program(*TRAIN)
    assert done.exit_code == 0, done.output
    assert "goes on from its checkpoint: epoch 2" in done.stderr
    assert_uninterrupted()


@row("T04", "Ctrl-C in training", "after the batch; 130, and the command that goes on is printed")
def ctrl_c(folder):
    code, said = stopped(signal.SIGINT)
    assert code == 130
    assert f"To go on: episome {' '.join(TRAIN)}" in said
    assert program(*TRAIN).exit_code == 0
    assert_uninterrupted()
    for path in ("new", "whole"):
        Path(path).rename(f"{path}-1")
    # twice: at once, with what was kept before
    code, said = stopped(signal.SIGINT, times=2)
    assert code == 130
    assert "To go on" not in said
    assert not RUN.exists()


@row("T05", "SIGTERM in training", "as Ctrl-C; 143")
def terminated(folder):
    code, said = stopped(signal.SIGTERM)
    assert code == 143
    assert "To go on: episome train" in said
    assert program(*TRAIN).exit_code == 0
    assert_uninterrupted()


# -- machines ------------------------------------------------------------------------------------


@row("T06", "a disk that is full at a checkpoint", "goes on; the last good one is kept")
def full_disk(folder):
    import resource

    whole = trained()

    def run():
        # A file may hold so few bytes: that of the tensors does not fit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            of = model()
            of.train(
                max_epochs=6,
                batch_size=16,
                accelerator="cpu",
                refit=False,
                checkpoint_dir="run",
                checkpoint_every_minutes=0,
            )
        texts = [str(w.message) for w in said if issubclass(w.category, EpisomeWarning)]
        assert any(re.search("could not be written.*disk is full.*E-T06", t) for t in texts)
        assert of.predict_proba().equals(whole.predict_proba())
        return 0

    assert child(run) == 0
    assert not list(Path("run").glob(".*"))


@row("T07", "memory that is too small for a batch", "smaller ones, added up to the same update")
def small_memory(folder):
    core = type(model().module)
    forward = core.forward

    def hungry(self, batch):
        if self.training and batch["labels"].shape[0] > 4:
            raise MemoryError
        return forward(self, batch)

    whole = trained()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "forward", hungry)
        of = model()
        with pytest.warns(EpisomeWarning, match=r"batches of 16 cells.*E-T07"):
            of.train(max_epochs=6, batch_size=16, accelerator="cpu", refit=False)
        patch.setattr(core, "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(ResourceError, match=r"are needed.*are free.*E-R01"):
            trained()
    assert of.fit_["n_updates"] == whole.fit_["n_updates"]
    # Class weights are shared out by the parts, so the updates are close and not the same. Losses
    # of every epoch are compared: which epoch is kept hangs on calls of twelve cells.
    for name in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(of.history[name], whole.history[name], atol=0.005)


@row("T08", "a network larger than the machine", "refused before it is trained")
def too_large(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "available_memory", lambda: 1000)
        patch.setattr(type(model().module), "forward", lambda *_: pytest.fail("it was run"))
        with pytest.raises(ResourceError, match=r"parameters.*are needed, 0.0 MB are free.*E-R01"):
            trained()


@row("T11", "a GPU that is not there", "refused in one line; auto takes what is there")
def no_gpu(folder):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    refused(6, "E-R04", *TRAIN, "--device", "cuda")
    with pytest.raises(ResourceError, match="E-R04"):
        trained(accelerator="gpu", devices=1)


# -- going on ------------------------------------------------------------------------------------


@row(
    "T13", "going on with other cells, genes, classes, seed or settings", "refused; all are named"
)
def another_run(folder):
    stopped(signal.SIGINT)
    for more, named in (
        (("--seed", "1"), "seed"),
        (("--set", "input_dropout=0.3"), "configuration"),
        (("--labels-key", "batch"), "classes"),
    ):
        refused(2, "E-T13", *TRAIN, *more, match=f"another run.*different: .*{named}")
    fewer = cells()[:, :-1].copy()
    fewer.write_h5ad("cells.h5ad")
    refused(2, "E-T13", *TRAIN, match="different: .*cells.*genes")
    assert program(*TRAIN, "--resume", "never").exit_code == 0
    assert not RUN.exists()


@row("T14", "going on with a finished run", "nothing is done, and that is said; 0")
def finished(folder):
    assert program(*TRAIN).exit_code == 0
    before = tree()
    again = program(*TRAIN)
    assert again.exit_code == 0
    assert "nothing is done" in again.stderr
    assert tree() == before
    first = trained(checkpoint_dir="run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Survive, "on_train_start", lambda *_: pytest.fail("it was trained"))
        second = trained(checkpoint_dir="run")
    assert second.predict_proba().equals(first.predict_proba())


@row("T15", "a folder that a live run uses", "refused with its process; a dead one is taken over")
def in_use(folder):
    with RunFolder(RUN).opened({}, resume="auto"):
        refused(6, "E-R05", *TRAIN, match=f"process {os.getpid()} on ")
    RUN.mkdir()
    (RUN / "lock").write_text("process 1 on elsewhere")
    assert program(*TRAIN).exit_code == 0


@row("T16", "a clock that jumps", "durations are right, training goes on")
def clock(folder):
    with pytest.MonkeyPatch.context() as patch:
        now = iter(range(10**9, 0, -3600))
        patch.setattr(time, "time", lambda: float(next(now)))
        of = trained(checkpoint_dir="run", checkpoint_every_minutes=0)
    assert 0 <= of.fit_["seconds"] < 60


@row("T18", "a file of cells that cannot be read any more", "refused; the checkpoint is kept")
def broken_file(folder):
    backed = (*TRAIN, "--backed")

    def vanish():
        def gone(*_):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        DiskRows._span = gone

    def run():
        every_batch()
        after(9, vanish)
        return run_to_files(backed, Path("out"), Path("err"))

    code, said = child(run), Path("err").read_text()
    assert (code, "Traceback" in said) == (3, False), said
    assert re.search(r"cells\.h5ad.*Stale file handle.*\[E-F01\]", said, re.DOTALL), said
    assert "what is done is kept" in said
    done = program(*backed)
    assert done.exit_code == 0
    assert "goes on from its checkpoint" in done.stderr


@row("T19", "the same seed twice, and another", "the same weights, and others; the seed is kept")
def seeds(folder):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert program(*TRAIN[:-1], name, "--seed", seed).exit_code == 0
    found = [weights(n) for n in "abc"]
    assert all(np.array_equal(found[0][k], found[1][k]) for k in found[0])
    assert any(not np.array_equal(found[0][k], found[2][k]) for k in found[0])
    assert read_model_folder("c").manifest["fit"]["seed"] == 1


@row("T20", "fewer cells than a batch, none to validate, no epoch", "works; no epoch is refused")
def few_cells(folder):
    of = trained(batch_size=4096, train_size=1.0, validation_size=0.0)
    assert of.fit_["n_validation"] == 0
    assert of.is_trained_
    with pytest.raises(UsageError, match="max_epochs of at least 1.*E-U22"):
        trained(max_epochs=0)
    refused(2, "E-U02", *TRAIN, "--max-epochs", "0", match="x>=1")


@row("T17", "no terminal, and a reader that goes away", "the model is saved; exit 141 in silence")
def nobody_reads(folder):
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "episome", *TRAIN]
    process = subprocess.run(
        words,
        stdout=writing,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TERM": "dumb"},
        timeout=300,
        check=False,
    )
    os.close(writing)
    assert process.returncode == 141
    assert "Traceback" not in process.stderr
    assert "\x1b" not in process.stderr
    assert "BrokenPipe" not in process.stderr
    assert weights()


@pytest.mark.parametrize("name", marked(CATALOGUE, {}))
def test_bad_training(name, folder):
    CATALOGUE[name].shows(folder)
