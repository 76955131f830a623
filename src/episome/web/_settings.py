"""What the operator of the page decides: folders, limits, who may come."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from episome.resources import memory_limit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["SUFFIXES", "ServeSettings"]

#: Endings of files that may be uploaded; what a file is, its content says.
SUFFIXES = (
    ".h5ad", ".h5mu", ".h5", ".hdf5", ".loom",
    ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of the page.

    Parameters
    ----------
    state
        Folder of the queue, the uploads and the results; made where it is not there.
    models
        Model folders, or folders of them, that visitors may choose from.
    token
        What the address must carry once; ``None`` lets everybody in who reaches the port.
    port
        Part of the cookie's name: cookies do not tell ports apart.
    hosts
        Names that requests may be addressed to, without port.
    any_address
        Requests may be addressed to any IP address.
    local
        Files of this machine may be named by their path.
    max_upload
        Bytes of one upload.
    max_queue
        Jobs that wait or run, of all users.
    min_free
        Bytes that must stay free on the disk of ``state``.
    keep, keep_partial
        Seconds after which files and results, and unfinished uploads, are deleted.
    workers
        Jobs that run at once.
    memory, wall
        Bytes and seconds that one job may take.
    device
        Where jobs run: ``"cpu"``, ``"auto"``, ``"cuda"``.
    idle
        Seconds without data after which a connection is closed.
    per_address
        Connections of one address at a time.
    clock
        The time in seconds, for what is kept how long.
    program
        What runs one step of a job.
    """

    state: Path
    models: tuple[Path, ...] = ()
    token: str | None = None
    port: int = 0
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "[::1]"})
    any_address: bool = False
    local: bool = False
    max_upload: int = 1 << 30
    max_queue: int = 50
    min_free: int = 5 << 30
    keep: float = 24 * 3600.0
    keep_partial: float = 3600.0
    workers: int = 1
    memory: int = field(default_factory=memory_limit)
    wall: float = 4 * 3600.0
    device: str = "cpu"
    idle: float = 30.0
    per_address: int = 256
    clock: Callable[[], float] = time.time
    program: tuple[str, ...] = (sys.executable, "-m", "episome.web._child")
