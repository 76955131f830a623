"""One step of a job as a process of its own, inside limits: ``python -m episome.web._child``.

It takes the limits before anything heavy is imported, and ends with its whole process group when
the page has gone.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
import threading
import time

__all__ = ["main"]

NICENESS = 10


def main(argv: list[str] | None = None) -> None:
    """Set the limits, then run a module as a program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--cpu", type=int, default=0)
    parser.add_argument("--address-space", action="store_true")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    asked = parser.parse_args(argv)
    _limit(asked.memory, asked.cpu, address_space=asked.address_space)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.argv = [asked.module, *asked.arguments]
    runpy.run_module(asked.module, run_name="__main__", alter_sys=True)


def _limit(memory: int, cpu: int, *, address_space: bool) -> None:
    """Take the limits of the system; a device's driver reserves addresses without end."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        kind = resource.RLIMIT_AS if address_space else resource.RLIMIT_DATA
        resource.setrlimit(kind, (memory, memory))
    if cpu:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))


def _end_with(parent: int) -> None:
    """Wait until the page has gone, then end all processes of the step."""
    while os.getppid() == parent:
        time.sleep(0.5)
    # Only a group of the step's own is ended: never that of whoever ran it by hand.
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
