"""One training in several processes on this machine, and its result back in this one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from episome import errors
from episome.errors import EpisomeError, Problem, ResourceError, TrainingError, warn
from episome.train._run_folder import RunFolder, RunPart

#: Strategies of several processes.
DISTRIBUTED = ("ddp", "fsdp")
_RANK = "LOCAL_RANK"

Progress = Callable[[int, int, dict[str, float]], None]


def n_processes(accelerator: str, devices: int | list[int] | str, strategy: object) -> int:
    """Return how many processes a training is to be started in; 1: none but this one.

    Under a launcher (torchrun, Slurm), which has started them already, it is 1 as well.

    Parameters
    ----------
    accelerator, devices, strategy
        Of Lightning.

    Raises
    ------
    ResourceError
        They cannot be started (E-R04).
    """
    name = strategy if isinstance(strategy, str) else ""
    if not name.startswith(DISTRIBUTED) or _launched():
        return 1
    on_gpu = accelerator not in {"cpu", "auto"} or (
        accelerator == "auto" and torch.cuda.is_available()
    )
    if name.startswith("fsdp") and not on_gpu:
        why = "its shards are on GPUs, and there is none"
        _refuse("strategy", name, why)
    if isinstance(devices, list):
        found = len(devices)
    elif str(devices).lstrip("-").isdigit() and int(devices) > 0:
        found = int(devices)
    else:
        found = max(torch.cuda.device_count(), 1) if on_gpu else 1
    if found > 1 and sys.platform in {"win32", "darwin"}:
        why = "processes are not forked on this platform"
        _refuse("devices", devices, why)
    if found > 1 and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        why = "this process uses a GPU already, and its forks cannot"
        _refuse("devices", devices, why)
    return found


def strategy_of_one(strategy: object, n_nodes: int = 1) -> object:
    """Return the strategy of a training in one process, and say where it shares nothing out.

    Parameters
    ----------
    strategy
        Of Lightning; its ``"ddp"`` would leave a group of processes behind in this one.
    n_nodes
        Number of machines.

    Warns
    -----
    EpisomeWarning
        There is one device (E-U33).
    """
    if not str(strategy).startswith("ddp") or n_nodes > 1 or _launched():
        return strategy
    warn(
        Problem(
            "E-U33",
            f"strategy={str(strategy)!r} (--strategy) is given for one device: nothing is shared "
            "out",
            why="the training runs in this process alone, as without it",
            fix="pass devices=2 or more (--devices 2), or leave the strategy out",
        )
    )
    return "auto"


def _launched() -> bool:
    """Whether torchrun or Slurm has started the processes."""
    return _RANK in os.environ or "SLURM_PROCID" in os.environ


def _refuse(name: str, value: object, why: str) -> NoReturn:
    raise ResourceError(
        "E-R04",
        f"{name}={value!r} cannot be used",
        why=why,
        fix="train in one process, from the command line, or with torchrun",
    )


@contextlib.contextmanager
def place_of(checkpoints: RunPart | None) -> Iterator[RunPart]:
    """Give a place through which the result comes back, that of the caller if there is one."""
    if checkpoints is not None:
        yield checkpoints
        return
    with tempfile.TemporaryDirectory(prefix="episome-") as folder:
        yield RunFolder(folder).part(1)


def in_processes(
    n: int,
    work: Callable[[int, Progress], None],
    *,
    progress: Progress | None,
) -> None:
    """Do a piece of work in forks of this process, each with its rank.

    The cells are shared, not copied. One failure ends all.

    Parameters
    ----------
    n
        Number of processes.
    work
        Called with the rank and a function that reports progress to this process.
    progress
        Called in this process.

    Raises
    ------
    EpisomeError
        What a process raised.
    """
    with tempfile.TemporaryDirectory(prefix="episome-") as folder:
        port = _free_port()
        read, write = os.pipe()
        running: dict[int, int] = {}
        try:
            for rank in range(n):
                pid = os.fork()
                if pid == 0:
                    os.close(read)
                    _child(rank, n, port, work, Path(folder), write)
                running[pid] = rank
            os.close(write)
            _wait(running, read, progress, Path(folder))
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(read)


def _child(
    rank: int,
    n: int,
    port: int,
    work: Callable[[int, Progress], None],
    folder: Path,
    write: int,
) -> NoReturn:
    code = 1
    try:
        # Ctrl-C goes to all processes of a terminal; the one that started them decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), _RANK: str(rank)}
        os.environ.update(environment, WORLD_SIZE=str(n), NODE_RANK="0")

        def report(done: int, total: int, metrics: dict[str, float]) -> None:
            if rank == 0:
                os.write(write, (json.dumps([done, total, metrics]) + "\n").encode())

        # All have the same callbacks: a checkpoint is of all of them.
        work(rank, report)
        code = 0
    except BaseException as error:  # noqa: BLE001 - it is raised in the other process
        (folder / f"{rank}.json").write_text(json.dumps(_told(error)), encoding="utf-8")
    finally:
        # Nothing of the other process is to be closed or written by its fork.
        os._exit(code)


def _wait(running: dict[int, int], read: int, progress: Progress | None, folder: Path) -> None:
    """Wait for all; pass progress on, and raise what the first that failed had to say."""
    os.set_blocking(read, False)
    rest = b""
    while running:
        ready, _, _ = select.select([read], [], [], 0.05)
        *lines, rest = (rest + (os.read(read, 1 << 16) if ready else b"")).split(b"\n")
        for line in lines:
            if progress is not None:
                progress(*json.loads(line))
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                rank = running.pop(pid)
                if status:
                    raise _failed(folder / f"{rank}.json", rank, status)


def _told(error: BaseException) -> dict[str, Any]:
    if isinstance(error, EpisomeError):
        problems = [dataclasses.asdict(p) for p in error.problems]
        return {
            "class": type(error).__name__,
            "problems": json.loads(json.dumps(problems, default=str)),
        }
    return {"text": "".join(traceback.format_exception(error))[-4000:]}


def _failed(file: Path, rank: int, status: int) -> EpisomeError:
    told: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if "problems" in told:
        cls: type[EpisomeError] = getattr(errors, told["class"])
        return cls([Problem(**p) for p in told["problems"]])
    code = os.waitstatus_to_exitcode(status)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return TrainingError(
        "E-R03",
        f"process {rank} of the training ended with {how}",
        why=told.get("text", "it was killed: memory may have run out").strip().splitlines()[-1],
        fix="train in one process to see where; what was kept is kept",
        details=dict(told),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
