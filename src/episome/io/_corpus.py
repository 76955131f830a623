"""The folder of a corpus: many cells on disk, in files that a manifest names and seals.

``manifest.json`` holds sizes, provenance and the SHA-256 of every other file; ``manifest.sha256``
seals it. Files that the manifest does not name are never read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from episome.errors import InputFileError, ModelFileError, Problem, raise_problems
from episome.io._atomic import recover
from episome.io._folder import MANIFEST, SEAL, seal_line
from episome.io._json import dumps, loads

CORPUS_VERSION = (1, 0)
KIND = "corpus"
_SAFE_NAME = re.compile(r"(cells/|shards/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
_MAX_MANIFEST_BYTES = 256 << 20
_BLOCK = 8 << 20


def is_corpus(path: str | Path) -> bool:
    """Whether a path is the folder of a corpus; only its manifest is looked at, not verified.

    Examples
    --------
    >>> is_corpus("no-such-folder")
    False
    """
    file = Path(path) / MANIFEST
    try:
        if not file.is_file() or file.stat().st_size > _MAX_MANIFEST_BYTES:
            return False
        return loads(file.read_bytes(), str(file)).get("kind") == KIND
    except (OSError, ValueError):  # no right to read it, or no JSON: no corpus of ours
        return False


def corpus_manifest_files(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the manifest and its seal as they are written."""
    text = dumps({**manifest, "format_version": list(CORPUS_VERSION), "kind": KIND})
    return {MANIFEST: text, SEAL: seal_line(text)}


def read_corpus_manifest(path: str | Path) -> dict[str, Any]:
    """Read the manifest of a corpus and compare it with its seal.

    Raises
    ------
    InputFileError
        There is no corpus (E-F30), its manifest is damaged (E-F31), or its format is newer than
        this episome reads (E-F32).
    """
    path = Path(path)
    recover(path)
    if not (path / MANIFEST).is_file():
        what = "there is no such folder" if not path.is_dir() else f"there is no {MANIFEST}"
        raise InputFileError(
            "E-F30", what, where=str(path), fix="pass the folder that `episome corpus build` wrote"
        )
    text = _small_file(path / MANIFEST)
    if _small_file(path / SEAL) != seal_line(text):
        raise InputFileError(damaged(path / MANIFEST, "its checksum differs"))
    try:
        manifest = loads(text, str(path / MANIFEST))
    except ModelFileError as error:
        raise InputFileError(damaged(path / MANIFEST, error.problems[0].what)) from error
    if manifest.get("kind") != KIND:
        raise InputFileError(
            "E-F30",
            "the folder holds no corpus",
            where=str(path),
            why="its manifest is of something else, such as a model",
            fix="pass the folder that `episome corpus build` wrote",
        )
    _check_version(manifest, path)
    _check_names(manifest, path)
    return manifest


def _small_file(file: Path) -> bytes:
    if not file.is_file():
        raise InputFileError(damaged(file, "it is missing"))
    if file.stat().st_size > _MAX_MANIFEST_BYTES:
        raise InputFileError(damaged(file, "it is larger than any manifest"))
    return file.read_bytes()


def _check_version(manifest: Mapping[str, Any], path: Path) -> None:
    version = manifest.get("format_version")
    if not isinstance(version, list) or len(version) != 2:
        raise InputFileError(damaged(path / MANIFEST, "it has no format version"))
    if version[0] > CORPUS_VERSION[0]:
        raise InputFileError(
            "E-F32",
            f"the corpus has format {version[0]}.{version[1]}, this episome reads "
            f"{CORPUS_VERSION[0]}",
            where=str(path),
            fix="pip install -U episome",
        )


def _check_names(manifest: Mapping[str, Any], path: Path) -> None:
    files = manifest.get("files")
    good = isinstance(files, dict) and all(
        _SAFE_NAME.fullmatch(name) and ".." not in name and isinstance(entry, dict)
        for name, entry in files.items()
    )
    if not good:
        raise InputFileError(damaged(path / MANIFEST, "it names files that no corpus has"))


def check_corpus_sizes(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the size of every file with the manifest; nothing is read.

    Raises
    ------
    InputFileError
        Files are missing, cut or too long, or links (E-F31), all said at once.
    """
    found = (_wrong_size(path / name, entry) for name, entry in manifest["files"].items())
    raise_problems(InputFileError, [problem for problem in found if problem is not None])


def _wrong_size(file: Path, entry: Mapping[str, Any]) -> Problem | None:
    if file.is_symlink() or file.parent.is_symlink():
        return damaged(file, "it is a link, and a corpus has none")
    if not file.is_file():
        return damaged(file, "it is missing")
    size = file.stat().st_size
    if size == entry.get("size"):
        return None
    return damaged(file, f"it has {size:,} of {entry.get('size')} bytes")


def wrong_checksums(
    path: Path,
    manifest: Mapping[str, Any],
    *,
    names: Iterable[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Problem]:
    """Read files of a corpus and compare each with its SHA-256.

    Parameters
    ----------
    path, manifest
        The corpus.
    names
        Which files; default all.
    progress
        Called with the number of bytes read, after every block.

    Returns
    -------
    A problem for every file that differs (E-F31).
    """
    problems = []
    for name in manifest["files"] if names is None else names:
        file, entry = path / name, manifest["files"][name]
        problem = _wrong_size(file, entry)
        if problem is None and file_digest(file, progress) != entry.get("sha256"):
            problem = damaged(file, "it differs from its checksum in the manifest")
        if problem is not None:
            problems.append(problem)
    return problems


def file_digest(file: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def damaged(file: Path, why: str) -> Problem:
    """Return the problem of a file of a corpus that is not as it was written."""
    return Problem(
        "E-F31",
        "a damaged file of a corpus",
        where=str(file),
        why=why,
        fix="copy the corpus again, or build it again",
    )


def path_digest(path: Path) -> str:
    """SHA-256 of a file, of the names and digests of a folder's files, or of an address."""
    if not path.exists():
        return hashlib.sha256(str(path).encode()).hexdigest()
    if not path.is_dir():
        return file_digest(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    lines = [f"{p.relative_to(path).as_posix()} {file_digest(p)}\n" for p in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def path_stamp(path: Path) -> list[list[object]]:
    """Name, size, time of writing and number of every file: what changes when a file does.

    An address has none of these: what is behind it is taken as unchanged.
    """
    if not path.exists():
        return []
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(p.relative_to(path).as_posix(), p.stat()) for p in files]
    return [[name, s.st_size, s.st_mtime_ns, s.st_ino] for name, s in stats]
