"""The folder in which a corpus is made: what is done so far, and who works on it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.errors import ResourceError
from episome.io._atomic import sync, write_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATE, CHECKED, LOCK = "state.json", "checked.json", "lock"


@dataclass(slots=True)
class State:
    """How far the making of a corpus is; written after what it speaks of is on the disk.

    Parameters
    ----------
    plan
        Digest of the plan that is carried out.
    tables
        Inputs whose columns and names are written.
    input, row
        The next input to sort, and its next cell.
    sizes
        For every shard the bytes of its records and of its index that count.
    shards
        Shards that are complete: their facts.
    files
        Files of the corpus that are complete: SHA-256 and size.
    """

    plan: str
    tables: int = 0
    input: int = 0
    row: int = 0
    sizes: list[list[int]] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


class WorkFolder:
    """A folder beside the place of a corpus, of a name that a later run finds again.

    Parameters
    ----------
    output
        Where the corpus is to be.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.parent / f".{output.name}.building"
        self.done = self.path / "done"
        self.parts = self.path / "parts"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out while the corpus is made.

        Raises
        ------
        ResourceError
            Another program makes it (E-R05).
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+") as handle:
            if not _lock(handle.fileno()):
                handle.seek(0)
                raise ResourceError(
                    "E-R05",
                    "another program makes this corpus",
                    where=str(self.path),
                    why=f"its number is {handle.read().strip() or 'not known'}",
                    fix="wait for it, or choose another output",
                )
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def known_inputs(self) -> dict[str, Any]:
        """Return what was found out about the inputs before."""
        return _json(self.path / CHECKED)

    def keep_inputs(self, known: dict[str, Any]) -> None:
        """Keep what was found out about the inputs."""
        write_file(self.path / CHECKED, json.dumps(known).encode(), overwrite=True)

    def load(self, plan: str) -> State | None:
        """Return how far a run of the same plan came, or ``None``."""
        kept = _json(self.path / STATE)
        return State(**kept) if kept.get("plan") == plan else None

    def begin(self, plan: str, n_shards: int) -> State:
        """Start anew: remove what another plan left, first of all what was said of it."""
        (self.path / STATE).unlink(missing_ok=True)
        for folder in (self.done, self.parts):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for name in ("cells", "shards"):
            (self.done / name).mkdir()
        state = State(plan, sizes=[[0, 0] for _ in range(n_shards)])
        self.save(state)
        return state

    def save(self, state: State) -> None:
        """Keep how far the work is."""
        write_file(self.path / STATE, json.dumps(asdict(state)).encode(), overwrite=True)

    def store(self, name: str, data: bytes) -> dict[str, Any]:
        """Write a file of the corpus; return its SHA-256 and size."""
        with self.storing(name) as (write, entry):
            write(data)
        return entry

    @contextlib.contextmanager
    def storing(self, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Write a file of the corpus piece by piece; its facts are filled in at the end."""
        digest, file = hashlib.sha256(), self.done / name
        entry: dict[str, Any] = {}
        with file.open("wb") as handle:

            def write(data: Any) -> None:
                digest.update(data)
                handle.write(data)

            yield write, entry
            size = handle.tell()
        sync(file)
        entry.update(sha256=digest.hexdigest(), size=size)

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path)


def array_bytes(array: NDArray[np.generic]) -> bytes:
    """Return an array as a file of numpy's format."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):  # never written, or not by us: the work starts anew
        return {}
    return found if isinstance(found, dict) else {}


def _lock(descriptor: int) -> bool:
    """Whether this process now owns the lock; it ends with the process, however that ends."""
    if sys.platform == "win32":  # no advisory locks there
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
