"""Ctrl-C and SIGTERM while a run is kept on disk: the batch is finished first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(Exception):
    """The run is to end here, and what is done is kept."""


class Stopping(contextlib.AbstractContextManager["Stopping"]):
    """Keep a signal until somebody asks; the second Ctrl-C goes through at once.

    Signals go back to whom they belonged to when the block ends. Outside the main thread, where
    nobody can be asked, nothing is kept.

    Parameters
    ----------
    enabled
        Keep signals at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled and threading.current_thread() is threading.main_thread()
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        """Remember whose signals these are."""
        if self.enabled:
            found = {s: signal.getsignal(s) for s in NAMES}
            # What is ignored stays so, as under nohup; what is not of Python cannot be put back.
            self._before = {
                s: h for s, h in found.items() if h is not None and h is not signal.SIG_IGN
            }
        return self

    def __exit__(self, *exc: object) -> None:
        """Give them back."""
        self._give_back()

    def install(self) -> None:
        """Take the signals; after Lightning has taken them."""
        for number in self._before:
            signal.signal(number, self._keep)

    def deliver(self) -> None:
        """Send the kept signal to whom it was meant for; it raises, or ends the process."""
        if self.received is None:
            return
        self._give_back()
        handler: Callable[..., object] | int = self._before[self.received]
        if callable(handler):
            handler(self.received, None)
        else:
            os.kill(os.getpid(), self.received)
        raise KeyboardInterrupt

    def _keep(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            self.received = signal.SIGINT
            self._give_back()
            handler = self._before[signal.SIGINT]
            if callable(handler):
                handler(number, frame)
            raise KeyboardInterrupt
        # Nothing is said here: the signal may have come in the middle of a write.
        self.received = signal.Signals(number)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
