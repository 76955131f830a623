"""Whether a corpus is as it was written, and holds what its manifest says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episome.data._corpus_columns import read_column, read_columns, read_names
from episome.data._corpus_source import CorpusSource
from episome.data._matrix import iter_blocks
from episome.errors import EpisomeError, InputFileError, Problem
from episome.io._corpus import damaged, read_corpus_manifest, wrong_checksums
from episome.io._folder import MANIFEST, SEAL

if TYPE_CHECKING:
    from scipy import sparse

#: Cells that are decoded at a time.
_BLOCK = 2048


def verify_corpus(
    path: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Compare every byte of a corpus with its checksum, and read every cell, column and name.

    Parameters
    ----------
    path
        Folder of the corpus.
    progress
        Called with ``(bytes done, bytes)``; every byte is read twice.

    Returns
    -------
    All problems; none where the corpus is whole.

    Raises
    ------
    InputFileError
        There is no corpus (E-F30), its manifest is damaged (E-F31), or its format is newer
        (E-F32).
    """
    path = Path(path)
    manifest = read_corpus_manifest(path)
    total, done = 2 * sum(int(e["size"]) for e in manifest["files"].values()), 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    problems = [*wrong_checksums(path, manifest, progress=advance), *_strangers(path, manifest)]
    if problems:
        # What is damaged is not read: the checksums say where it is.
        return problems
    found: list[Problem] = []
    for check in (_tables, _cells):
        try:
            for n in check(path):
                advance(n)
        except EpisomeError as error:
            found += error.problems
    return found


def _strangers(path: Path, manifest: dict[str, object]) -> list[Problem]:
    """Files that the manifest does not name: nobody knows whose they are."""
    files = manifest["files"]
    known = {*files, MANIFEST, SEAL} if isinstance(files, dict) else set()
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    return [damaged(path / n, "the manifest does not name it") for n in sorted(there - known)]


def _tables(path: Path) -> Iterator[int]:
    source = CorpusSource(path)
    _ = source.var, source.measured, read_names(path, source.n_obs)
    for column in read_columns(path).values():
        read_column(path, column, source.n_obs)
        yield int(source.manifest["files"][column.file]["size"])


def _cells(path: Path) -> Iterator[int]:
    source, stored = CorpusSource(path), 0
    for rows in iter_blocks(source.n_obs, _BLOCK):
        block = source.read(rows)
        _check_block(block, path)
        stored += block.nnz
        yield 2 * block.nnz
    if stored != source.manifest["n_stored"]:
        why = f"the shards hold {stored:,} values, and it says {source.manifest['n_stored']:,}"
        raise InputFileError(damaged(path / MANIFEST, why))


def _check_block(block: sparse.csr_matrix, path: Path) -> None:
    if block.nnz and (block.data.min() < 1 or not np.isfinite(block.data).all()):
        raise InputFileError(damaged(path, "a record holds a count of zero"))
