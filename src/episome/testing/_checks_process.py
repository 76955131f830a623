"""Checks of what a model does to the process around it: nothing."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from episome.testing._check import check, require
from episome.testing._process import momentary_state, process_state

if TYPE_CHECKING:
    from episome.testing._subject import Subject


def _work(subject: Subject, data: Any = None) -> None:
    """Train and answer once."""
    subject.ask(subject.train(subject.data(60) if data is None else data), subject.query)


@check(advice="set nothing that belongs to the process; draw from settings.stream_seed")
def check_the_state_of_the_process_is_left_alone(subject: Subject) -> None:
    """Random states, types, threads, filters, loggers and variables stay as they were."""
    data, _ = subject.data(60), subject.query  # simulating them is not the model's doing
    with warnings.catch_warnings():
        warnings.resetwarnings()
        # Whoever seeds a generator with a number of its own leaves another state than these.
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        random.seed()
        np.random.seed(random.getrandbits(32))  # noqa: NPY002
        torch.manual_seed(random.getrandbits(32))
        before = {**process_state(), **momentary_state()}
        _work(subject, data)
        after = {**process_state(), **momentary_state()}
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])
    changed = [name for name, value in before.items() if after[name] != value]
    # What the first training changed for good is not changed again.
    changed += [name for name, value in subject.process.items() if after[name] != value]
    require(not changed, f"it changed {', '.join(dict.fromkeys(changed))}")


@check(advice="use episome.log.get_logger(__name__); show progress by the host's `progress`")
def check_nothing_is_printed(subject: Subject) -> None:
    """Training and prediction write nothing to standard output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _work(subject)
    text = printed.getvalue().strip()
    require(not text, f"it prints {text[:80]!r}")


@check(advice="write where the caller says, and to temporary folders that are removed")
def check_no_files_are_left(subject: Subject) -> None:
    """Training and prediction leave no file in the working folder."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            _work(subject)
            left = sorted(p.name for p in Path(folder).rglob("*"))
        finally:
            os.chdir(here)
    require(not left, f"it leaves {', '.join(left[:3])} in the working folder")


@check(advice="open no connection unless the user asked for one by name")
def check_no_connection_is_opened(subject: Subject) -> None:
    """Training and prediction open no network connection."""
    with _watched_sockets() as tried:
        _work(subject)
    require(not tried, f"it tries to reach {tried[:3]}")


@contextlib.contextmanager
def _watched_sockets() -> Iterator[list[object]]:
    """Refuse connections other than to this machine's own sockets, and list them."""
    tried: list[object] = []
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            tried.append(address)
            raise ConnectionRefusedError(str(address))
        connect(self, address)  # type: ignore[arg-type]  # a path

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    try:
        yield tried
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


@check(advice="end what you start: threads, processes, pools")
def check_no_threads_are_left(subject: Subject) -> None:
    """Training and prediction leave no thread of theirs running."""
    _work(subject)
    before = {t.ident for t in threading.enumerate()}
    _work(subject)
    left = [t.name for t in threading.enumerate() if t.ident not in before]
    require(not left, f"it leaves the threads {left[:3]}")


@check(base="network", advice="let KeyboardInterrupt through; the host's train() does")
def check_training_can_be_interrupted(subject: Subject) -> None:
    """Ctrl-C in training ends it as an interrupt; the model can be trained again."""
    model: Any = subject.set_up(subject.data(60))
    import lightning.pytorch as pl

    class Interrupt(pl.Callback):
        def on_train_batch_end(self, *args: object) -> None:
            raise KeyboardInterrupt

    try:
        model.train(**subject.quick(), accelerator="cpu", callbacks=[Interrupt()])
    except KeyboardInterrupt:
        stopped = True
    else:
        stopped = False
    require(stopped, "Ctrl-C is swallowed: training returns as if nothing had happened")
    require(not model.is_trained_, "an interrupted first training counts as one")
    model.train(**subject.quick(), accelerator="cpu")
    answers = subject.ask(model, subject.query)
    require(all(np.isfinite(v).all() for v in answers.values()), "answers are not finite")
