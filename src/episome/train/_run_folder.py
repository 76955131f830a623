"""The folder of a training run: what is done so far, and who works on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from episome.errors import ModelFileError, ResourceError, UsageError
from episome.io import write_file, write_folder
from episome.io._atomic import recover
from episome.log import get_logger
from episome.train._packing import pack, unpack
from episome.train._places import CHECKPOINT, FINISHED, SEAL, WORK, holds_work

logger = get_logger(__name__)

FORMAT = 1
RUN, LOCK, STATE, TENSORS = "run.json", "lock", "state.json", "state.safetensors"
_ANEW = 'resume="never" (--resume never) starts anew'


@dataclass(frozen=True, slots=True)
class RunPart:
    """The place of one of the runs that a training consists of.

    Parameters
    ----------
    folder
        Of the whole training.
    part
        Number of the run, from 1.
    """

    folder: RunFolder
    part: int

    def finished(self) -> Any | None:
        """Return what the run left, where it is finished."""
        return self.folder.read(FINISHED.format(self.part))

    def finish(self, result: object) -> None:
        """Keep what the run leaves; a later call of training reads it instead of training."""
        self.folder.write(FINISHED.format(self.part), result)

    def state(self) -> dict[str, Any] | None:
        """Return the last checkpoint of the run."""
        kept: dict[str, Any] | None = self.folder.read(CHECKPOINT)
        return kept["state"] if kept is not None and kept["part"] == self.part else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the one before is there until this one is whole.

        Parameters
        ----------
        state
            Plain data and tensors.

        Raises
        ------
        ResourceError
            The disk is full (E-R02).
        """
        self.folder.write(CHECKPOINT, {"part": self.part, "state": state})


class RunFolder:
    """Checkpoints of one training, written beside their place and swapped in.

    Parameters
    ----------
    path
        The folder; made where it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def holds_work(self) -> bool:
        """Whether a training can go on from here."""
        return holds_work(self.path)

    @contextlib.contextmanager
    def opened(
        self, facts: Mapping[str, object], *, resume: Literal["auto", "never", "must"]
    ) -> Iterator[RunFolder]:
        """Own the folder while a training runs.

        Parameters
        ----------
        facts
            What decides the result, plain data by name.
        resume
            ``"auto"`` goes on from what is there, ``"never"`` removes it, ``"must"`` wants it.

        Raises
        ------
        ResourceError
            Another program trains into it (E-R05).
        UsageError
            What is there is of another run (E-T13); there is nothing, and there must be (E-T03).
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+", encoding="utf-8") as handle:
            _own(handle, self.path)
            try:
                self._sweep()
                self._agree(facts, resume)
                yield self
            finally:
                handle.truncate(0)
                if not self.holds_work:
                    self._clear()
                    (self.path / LOCK).unlink()
                    with contextlib.suppress(OSError):  # somebody keeps other things in it
                        self.path.rmdir()

    def _agree(
        self, facts: Mapping[str, object], resume: Literal["auto", "never", "must"]
    ) -> None:
        if resume == "never":
            self._clear()
        if self.holds_work:
            self._require_same(facts)
        elif resume == "must":
            raise UsageError(
                "E-T03",
                "there is no checkpoint to go on from",
                where=str(self.path),
                fix='pass the folder that was given as checkpoint_dir, or resume="auto"',
            )
        else:
            self._begin(facts)

    def part(self, number: int) -> RunPart:
        """Return the place of one run of the training."""
        return RunPart(self, number)

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path)

    def write(self, name: str, content: object) -> None:
        """Write a sealed folder of plain data and tensors inside, in place of one of its name."""
        text, tensors = pack(content)
        files = {STATE: text, TENSORS: save_tensors(tensors)}
        seal = {k: hashlib.sha256(v).hexdigest() for k, v in files.items()}
        files[SEAL] = json.dumps(seal).encode()
        write_folder(self.path / name, files, overwrite=True)

    def read(self, name: str) -> Any | None:
        """Return what was written under a name, ``None`` where nothing was.

        Raises
        ------
        ModelFileError
            It was damaged since (E-T03).
        """
        folder = self.path / name
        recover(folder)
        if not folder.is_dir():
            return None
        try:
            files = {k: (folder / k).read_bytes() for k in (STATE, TENSORS, SEAL)}
            seal = json.loads(files.pop(SEAL))
            if seal != {k: hashlib.sha256(v).hexdigest() for k, v in files.items()}:
                raise _damaged(folder, "a checksum does not agree")
            return unpack(files[STATE], load_tensors(files[TENSORS]))
        except (OSError, ValueError, SafetensorError) as error:
            if isinstance(error, ModelFileError):
                raise
            raise _damaged(folder, str(error)[:200]) from error

    def _begin(self, facts: Mapping[str, object]) -> None:
        kept = {"format": FORMAT, "facts": _plain(facts)}
        write_file(self.path / RUN, json.dumps(kept, indent=1).encode(), overwrite=True)

    def _require_same(self, facts: Mapping[str, object]) -> None:
        try:
            kept = json.loads((self.path / RUN).read_bytes())
            before = kept["facts"] if kept["format"] == FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(self.path / RUN, str(error)[:200]) from error
        now = _plain(facts)
        names = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        if not names:
            return
        raise UsageError(
            "E-T13",
            "the checkpoint is of another run",
            where=str(self.path),
            count=len(names),
            total=len({**before, **now}),
            examples=[_difference(k, before.get(k), now.get(k)) for k in names],
            why=f"different: {', '.join(names)}",
            fix=f"pass what that run was given, choose another folder; {_ANEW}",
            details={"different": names},
        )

    def _clear(self) -> None:
        # First what a later run would go on from: what is half removed is nobody's checkpoint.
        for name in WORK:
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / RUN).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what a write that was killed left beside its place."""
        for left in self.path.glob(".*.tmp-*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def _difference(name: str, before: object, now: object) -> str:
    texts = [json.dumps(v) for v in (before, now)]
    short = all(len(t) <= 24 for t in texts)
    return f"{name} ({texts[0]}, now {texts[1]})" if short else name


def _plain(facts: Mapping[str, object]) -> dict[str, Any]:
    """Return facts as they come back from their file."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(facts), default=str))
    return plain


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "E-T03", "the checkpoint cannot be read", where=str(path), why=why, fix=_ANEW
    )


def _own(handle: IO[str], path: Path) -> None:
    """Lock the folder for this process; the lock ends with it, however it ends."""
    if sys.platform != "win32":  # there are no advisory locks there
        import fcntl

        try:
            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise ResourceError(
                "E-R05",
                "another program trains into this folder",
                where=str(path),
                why=handle.read().strip() or "it does not say which",
                fix="wait for it, or choose another folder",
            ) from error
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
