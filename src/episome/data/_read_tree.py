"""What a file of arrays declares, HDF5 or zarr, and whether that can be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from episome.data._read_guard import Limits, human
from episome.errors import InputDataError, InputFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What a Python text costs at least; strings of variable length do not say theirs.
TEXT_BYTES = 64
CHUNK_LIMIT = 1 << 30


@dataclass(slots=True)
class Tree:
    """What a file declares.

    Parameters
    ----------
    datasets
        Path of every dataset -> (shape, bytes that it takes in memory).
    groups
        Path of every group.
    stored
        Bytes that the datasets take on disk.
    n_objects
        Groups, datasets, links and attributes.
    """

    datasets: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    stored: int = 0
    n_objects: int = 0

    def declared(self, *, without: tuple[str, ...] = ()) -> tuple[int, str]:
        """Bytes of all datasets but those that stay on disk, and the largest of them."""
        sizes = {
            p: size
            for p, (_, size) in self.datasets.items()
            if not any(p == w or p.startswith(f"{w}/") for w in without)
        }
        return sum(sizes.values()), max(sizes, key=lambda p: sizes[p], default="")


def refuse_other_file(where: str, what: str) -> NoReturn:
    """Refuse a way out of the file.

    Raises
    ------
    InputFileError
        E-F11.
    """
    raise InputFileError(
        "E-F11",
        what,
        where=where,
        why="a file that was sent to you could read others of yours this way",
        fix="pass trust=True (--trust) if you made the file",
    )


def refuse_chunk(where: str, size: int) -> NoReturn:
    """Refuse a chunk that a reader would take at once.

    Raises
    ------
    InputFileError
        E-F09.
    """
    raise InputFileError(
        "E-F09",
        "a chunk is larger than a reader should take at once",
        where=where,
        why=f"it takes {human(size)}, {human(CHUNK_LIMIT)} are allowed",
        fix="write the file again with smaller chunks, or pass trust=True (--trust)",
    )


def check_tree(
    tree: Tree, name: str, limits: Limits, *, on_disk: tuple[str, ...] = (), can_back: bool = False
) -> None:
    """Compare what a file declares with what is allowed, before anything is allocated.

    Parameters
    ----------
    tree
        What it declares.
    name
        For messages.
    limits
        What is allowed.
    on_disk
        Paths that will not be read.
    can_back
        Whether leaving the matrix on disk is a way out.

    Raises
    ------
    InputFileError
        E-F09, or pointers and values of a sparse matrix that do not belong together (E-F01).
    """
    declared, largest = tree.declared(without=on_disk)
    ways = "pass backed=True (--backed), a larger max_memory (--max-memory), or use a machine with"
    fix = f"{ways} more" if can_back else None
    limits.check_size(name, declared, largest=largest, fix=fix)
    limits.check_ratio(name, tree.declared()[0], tree.stored)
    for group in sorted(tree.groups):
        start = f"{group}/" if group else ""
        parts = [tree.datasets.get(f"{start}{part}") for part in ("data", "indices", "indptr")]
        if parts[0] is None or parts[1] is None or parts[2] is None:
            continue
        if parts[0][0] != parts[1][0] or len(parts[2][0]) != 1:
            raise InputFileError(
                "E-F01",
                "a sparse matrix is incomplete",
                where=f"{name}, {group}",
                why=f"it has values of shape {parts[0][0]} for columns of shape {parts[1][0]}",
                fix="download or write the file again",
            )


def check_pointers(pointers: NDArray[np.integer], n: int, where: str) -> None:
    """Check the row pointers of a sparse matrix.

    Parameters
    ----------
    pointers
        Where every row starts among the values, and the end.
    n
        Number of values.
    where
        For messages.

    Raises
    ------
    InputDataError
        They are out of order, or do not end where the values end (E-D23).
    """
    ends = len(pointers) > 0 and pointers[0] == 0 and pointers[-1] == n
    if not ends or (np.diff(pointers) < 0).any():
        raise InputDataError(
            "E-D23",
            "broken sparse structure (row pointers out of order or range)",
            where=where,
            why="reading it would return foreign memory, or leave values out",
            fix="write the file again from the original data",
        )
