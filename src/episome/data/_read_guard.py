"""What every reader needs: limits, and errors of other libraries in the one form of messages."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from episome import resources
from episome.data._read_names import first_line
from episome.errors import EpisomeError, InputFileError

MAX_OBJECTS = 100_000
MAX_DEPTH = 32
MAX_RATIO = 200
#: A file of less than this many bytes, unpacked, is no bomb: constant columns compress 1000:1.
RATIO_FLOOR = 64 << 20

#: What h5py, zarr, numcodecs, pandas, scipy, scanpy and anndata raise on content that is broken:
#: they look attributes up, index, unpack and multiply what the file says. All of them were seen on
#: files with one flipped bit. The guard stands around calls of these libraries only, so that an
#: error of ours is never taken for one of the file.
_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)
#: Classes of their own that derive from nothing but `Exception`, by name.
_BROKEN_NAMES = frozenset({"IORegistryError", "Exception", "error"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may ask of the reader.

    Parameters
    ----------
    max_memory
        Bytes that its content may take; default what this process may use.
    trust
        Lift the limits that only a file made to do harm meets, and follow links to other files.
    """

    max_memory: int
    trust: bool = False

    @classmethod
    def of(cls, max_memory: int | None, *, trust: bool) -> Limits:
        """Fill in the memory of this process where none is given."""
        return cls(resources.memory_limit() if max_memory is None else max_memory, trust)

    def check_size(
        self, where: str, declared: int, *, largest: str = "", fix: str | None = None
    ) -> None:
        """Refuse content that would not fit into memory.

        Raises
        ------
        InputFileError
            E-F09.
        """
        if declared > self.max_memory:
            raise InputFileError(
                "E-F09",
                "the file declares more than memory holds",
                where=where,
                why=f"it would take {human(declared)}, {human(self.max_memory)} are allowed"
                + (f"; most of it is {largest}" if largest else ""),
                fix=fix or "pass a larger max_memory (--max-memory), or use a machine with more",
                details={"declared_bytes": declared, "max_memory": self.max_memory},
            )

    def check_ratio(self, where: str, declared: int, stored: int) -> None:
        """Refuse content that is far larger unpacked than on disk.

        Raises
        ------
        InputFileError
            E-F09.
        """
        if not self.trust and declared > RATIO_FLOOR and declared > MAX_RATIO * max(stored, 1):
            raise InputFileError(
                "E-F09",
                "the file unpacks to far more than it stores",
                where=where,
                why=f"{human(stored)} would become {human(declared)}, more than {MAX_RATIO} times "
                "as much: data of cells do not compress like this",
                fix="pass trust=True (--trust) if you know who made the file",
                details={"declared_bytes": declared, "stored_bytes": stored},
            )

    def check_count(self, where: str, objects: int, depth: int) -> None:
        """Refuse a tree that is too large or too deep.

        Raises
        ------
        InputFileError
            E-F09.
        """
        if self.trust or (objects <= MAX_OBJECTS and depth <= MAX_DEPTH):
            return
        what = (
            f"more than {MAX_OBJECTS:,} objects and attributes"
            if objects > MAX_OBJECTS
            else f"groups nested more than {MAX_DEPTH} deep"
        )
        raise InputFileError(
            "E-F09",
            f"the file holds {what}",
            where=where,
            why="reading it would take memory and time without end",
            fix="pass trust=True (--trust) if you know who made the file",
        )


@contextlib.contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Turn what other libraries raise on a broken file into one error with a cause.

    Parameters
    ----------
    name
        Of the file, for the message.
    kind
        What it is read as.

    Raises
    ------
    InputFileError
        E-F13 for a part of a newer anndata, E-F09 where memory is not enough, else E-F01.
    """
    try:
        yield
    except EpisomeError:
        raise
    except MemoryError as error:
        raise InputFileError(
            "E-F09",
            "memory is not enough to read the file",
            where=name,
            why=first_line(error),
            fix="pass backed=True, or use a machine with more memory",
        ) from error
    except Exception as error:
        if not isinstance(error, _BROKEN) and type(error).__name__ not in _BROKEN_NAMES:
            raise
        raise _broken(name, kind, error) from error


def _broken(name: str, kind: str, error: Exception) -> InputFileError:
    if type(error).__name__ == "IORegistryError":
        return InputFileError(
            "E-F13",
            "the file holds a part that the installed anndata does not know",
            where=name,
            why=f"a newer anndata wrote it, or it is damaged: {first_line(error)}",
            fix="pip install --upgrade anndata",
        )
    return InputFileError(
        "E-F01",
        f"the file cannot be read as {kind}",
        where=name,
        why=first_line(error),
        fix="download or write the file again",
    )


@contextlib.contextmanager
def unchanged(*paths: Path, name: str) -> Iterator[None]:
    """Refuse what was read while one of the files changed.

    Raises
    ------
    InputFileError
        E-F16; also in place of an error that the change caused.
    """
    before = _stamps(paths)

    def check(cause: BaseException | None) -> None:
        if _stamps(paths) != before:
            raise InputFileError(
                "E-F16",
                "the file changed while it was read",
                where=name,
                why="what was read may be half old and half new",
                fix="wait until the program that writes it is done, and read it again",
            ) from cause

    try:
        yield
    except InputFileError as error:
        check(error)
        raise
    check(None)


def _stamps(paths: tuple[Path, ...]) -> list[tuple[int, int, int] | None]:
    stamps: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return stamps


def human(n: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n} bytes"
