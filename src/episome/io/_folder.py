"""The folder of a saved model: safetensors, JSON and tables, sealed with checksums.

Nothing is ever unpickled. Every sealed file is compared with the manifest before it is parsed, so
one flipped bit or a cut file is refused, and files that the manifest does not name are never read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.errors import InputFileError, ModelFileError, ModelMismatchError
from episome.io._atomic import ensure_free, recover, write_folder
from episome.io._json import dumps, loads
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = get_logger(__name__)

FORMAT_VERSION = (1, 0)
MANIFEST, SEAL, WEIGHTS = "manifest.json", "manifest.sha256", "weights.safetensors"
GENES, LABELS, HISTORY, CARD = "genes.tsv", "labels.tsv", "history.csv", "README.md"
#: Scores that a card tells of; outside the seal as the card is.
EVALUATION = "evaluation.json"
#: What every folder begins with: the manifest and its checksum.
SEALED = (MANIFEST, SEAL)
_SAFE_NAME = re.compile(r"(files/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,120}")
_MAX_MANIFEST_BYTES = 256 << 20
_PICKLES = {"model.pt", "model.pkl", "model.ckpt"}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The parts of a saved model.

    Parameters
    ----------
    manifest
        Plain data: spec name, configuration, registry, input rule, provenance.
    tensors
        Weights by name.
    genes
        Columns of the gene table, ``{"id": (...), ...}``.
    labels
        Columns of the class table, ``{"label": (...), "ontology_term_id": (...)}``.
    history
        Columns of the training history, by metric.
    files
        Data files that the core owns, by name.
    card
        The model card in Markdown; outside the seal, people edit cards.
    """

    manifest: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.generic]]
    genes: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    card: str = ""


def write_model_folder(path: str | Path, model: ModelFolder, *, overwrite: bool = False) -> Path:
    """Write a model folder atomically.

    Raises
    ------
    ModelFileError
        Weights are not finite (E-M07).
    InputFileError, ResourceError
        See ``write_folder``.
    """
    check_model_output(path, overwrite=overwrite)
    return write_folder(path, model_files(model), overwrite=overwrite)


def model_files(model: ModelFolder) -> dict[str, bytes]:
    """Return the files of a model folder by name.

    Raises
    ------
    ModelFileError
        Weights are not finite (E-M07).
    """
    sealed = {
        WEIGHTS: tensor_bytes(model.tensors),
        GENES: _table(model.genes, "\t"),
        LABELS: _table(model.labels, "\t"),
        HISTORY: _table({k: [repr(float(x)) for x in v] for k, v in model.history.items()}, ","),
        **{f"files/{name}": data for name, data in model.files.items()},
    }
    for name in sealed:
        _check_name(name)
    manifest = {
        **model.manifest,
        "format_version": list(FORMAT_VERSION),
        "files": {
            n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in sealed.items()
        },
    }
    text = dumps(manifest)
    return {**sealed, MANIFEST: text, SEAL: seal_line(text), CARD: model.card.encode()}


def tensor_bytes(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return arrays as a safetensors file.

    Raises
    ------
    ModelFileError
        Values are not finite (E-M07).
    """
    from safetensors.numpy import save

    _refuse_non_finite(tensors)
    data: bytes = save({k: np.asarray(v, order="C") for k, v in tensors.items()})
    return data


def read_tensors(
    path: Path, name: str, entry: Mapping[str, object]
) -> dict[str, NDArray[np.generic]]:
    """Verify and read one safetensors file of a folder.

    Raises
    ------
    ModelFileError
        It is missing, damaged or holds what is not finite (E-M03 to E-M07, E-M11).
    """
    return _load_tensors(_read_sealed(path, name, entry))


def check_model_output(path: str | Path, *, overwrite: bool) -> Path:
    """Check before any work that a model folder can be written to ``path``.

    Raises
    ------
    InputFileError
        Something is there that is no model folder, or is one and ``overwrite`` is false (E-F26);
        the place cannot be written (E-F27).
    """
    path = Path(path)
    ensure_free(path, overwrite=overwrite)
    other = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if other and not (path / MANIFEST).is_file():
        raise InputFileError(
            "E-F26",
            "the output exists and is no model folder",
            where=str(path),
            why="only a model folder is replaced by one",
            fix="choose another place",
        )
    return path


def read_model_folder(path: str | Path) -> ModelFolder:
    """Verify and read a model folder.

    Raises
    ------
    ModelFileError
        It is no model folder or incomplete (E-M05), damaged (E-M03, E-M04), of a newer format
        (E-M10), names a file outside itself (E-M12), or holds an ensemble (E-M14).
    UntrustedModelError
        It is a file of scvi-tools or a pickle (E-M02).
    """
    path = Path(path)
    manifest = read_manifest(path)
    if is_ensemble(manifest):
        raise ModelFileError(
            "E-M14",
            "the folder holds an ensemble, not one model",
            where=str(path),
            fix="episome.models.load(folder), or one of its members/",
        )
    data = {name: _read_sealed(path, name, entry) for name, entry in _entries(manifest)}
    if absent := [n for n in (WEIGHTS, GENES, LABELS, HISTORY) if n not in data]:
        raise ModelFileError(
            "E-M05",
            f"the manifest names no {', '.join(absent)}",
            where=str(path),
            fix="copy the folder again",
        )
    extra = {p.name for p in path.iterdir()} - {n.split("/")[0] for n in data}
    if extra := extra - {MANIFEST, SEAL, CARD, EVALUATION}:
        logger.info("files in %s that no model reads: %s", path, ", ".join(sorted(extra)[:5]))
    card = path / CARD
    return ModelFolder(
        manifest=manifest,
        tensors=_load_tensors(data[WEIGHTS]),
        genes=_columns(data[GENES], "\t", GENES),
        labels=_columns(data[LABELS], "\t", LABELS),
        history=_numbers(_columns(data[HISTORY], ",", HISTORY)),
        files={n.removeprefix("files/"): d for n, d in data.items() if n.startswith("files/")},
        card=card.read_text(errors="replace") if card.is_file() else "",
    )


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read and verify the manifest alone.

    Raises
    ------
    ModelFileError, UntrustedModelError
        As :func:`read_model_folder`.
    """
    path = Path(path)
    recover(path)
    _refuse_foreign(path)
    text = _read(path / MANIFEST, _MAX_MANIFEST_BYTES)
    if _read(path / SEAL, 4096) != seal_line(text):
        raise _damaged(path / MANIFEST, "its checksum differs")
    manifest = loads(text, str(path / MANIFEST))
    version = manifest.get("format_version")
    if not isinstance(version, list) or len(version) != 2:
        raise _damaged(path / MANIFEST, "it has no format version")
    if tuple(version) > FORMAT_VERSION and version[0] > FORMAT_VERSION[0]:
        raise ModelMismatchError(
            "E-M10",
            f"the folder has format {version[0]}.{version[1]}, this episome reads "
            f"{FORMAT_VERSION[0]}",
            where=str(path),
            fix="pip install -U episome",
        )
    return manifest


def folder_files(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the files that a manifest seals, and their sizes; of an ensemble its own.

    Raises
    ------
    ModelFileError
        It lists no files (E-M05), or one outside the folder (E-M12).
    """
    sizes = {name: entry.get("size") for name, entry in _entries(manifest)}
    return {name: size if isinstance(size, int) else 0 for name, size in sizes.items()}


def card_file(path: str | Path) -> Path:
    """Return where the card of a model folder is."""
    return Path(path) / CARD


def is_ensemble(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is that of an ensemble folder."""
    return manifest.get("kind") == "ensemble"


def seal_line(manifest: bytes) -> bytes:
    """Return the line that ``sha256sum -c`` reads."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _refuse_foreign(path: Path) -> None:
    from episome.errors import UntrustedModelError

    pickles = [path] if path.is_file() else [path / n for n in _PICKLES if (path / n).is_file()]
    if (path / MANIFEST).is_file():
        return
    if path.is_file() and _starts_as_hdf5(path):
        raise ModelFileError(
            "E-M05",
            "this is a file of cells, not a model folder",
            where=str(path),
            fix="pass the folder that save() or train wrote",
        )
    if pickles:
        raise UntrustedModelError(
            "E-M02",
            "this is no episome model folder but a file that may run code when it is loaded",
            where=str(pickles[0]),
            fix="load it with the program that wrote it and train or convert it there",
        )
    what = "there is no such folder" if not path.exists() else f"the folder holds no {MANIFEST}"
    raise ModelFileError(
        "E-M05", what, where=str(path), fix="pass the folder that save() or train wrote"
    )


def _starts_as_hdf5(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4) == b"\x89HDF"


def _entries(manifest: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ModelFileError("E-M05", "the manifest lists no files", where=MANIFEST)
    for name, entry in files.items():
        _check_name(name)
        if not isinstance(entry, dict):
            raise ModelFileError(
                "E-M05", f"the manifest says nothing about {name}", where=MANIFEST
            )
    return list(files.items())


def _check_name(name: str) -> None:
    if not _SAFE_NAME.fullmatch(name) or ".." in name:
        raise ModelFileError(
            "E-M12",
            f"a file name that leaves the folder: {name!r:.60}",
            where=MANIFEST,
            why="it could read or write elsewhere",
            fix="do not use this model",
        )


def _read_sealed(path: Path, name: str, entry: Mapping[str, object]) -> bytes:
    file = path / name
    if file.is_symlink() or file.parent.is_symlink():
        raise ModelFileError("E-M12", "a link where a file should be", where=str(file))
    size, digest = entry.get("size"), entry.get("sha256")
    if not isinstance(size, int):
        raise _damaged(file, "the manifest does not say its size")
    data = _read(file, size)
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise _wrong_content(file, data, size)
    return data


def _wrong_content(file: Path, data: bytes, size: int) -> ModelFileError:
    """Say which way a file differs from what was sealed."""
    if data.startswith(b"version https://git-lfs"):
        return ModelFileError(
            "E-M04", "a Git LFS pointer, not data", where=str(file), fix="run `git lfs pull`"
        )
    if not data:
        return _damaged(file, "it is empty")
    if len(data) < size:
        return _damaged(file, f"it ends at {len(data):,} of {size:,} bytes")
    return _damaged(file, "it differs from its checksum in the manifest")


def _read(file: Path, limit: int) -> bytes:
    if not file.is_file():
        raise ModelFileError(
            "E-M05", "a file of the model is missing", where=str(file), fix="copy the folder again"
        )
    if file.stat().st_size > limit:
        raise _damaged(file, "it is larger than the manifest says")
    return file.read_bytes()


def _damaged(file: Path, why: str) -> ModelFileError:
    return ModelFileError(
        "E-M03",
        "a damaged file",
        where=str(file),
        why=why,
        fix="copy or download the folder again",
    )


def _load_tensors(data: bytes) -> dict[str, NDArray[np.generic]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(Path(WEIGHTS), str(error)[:200]) from error
    _refuse_non_finite(tensors)
    return tensors


def _refuse_non_finite(tensors: Mapping[str, NDArray[np.generic]]) -> None:
    bad = [k for k, v in tensors.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if bad:
        raise ModelFileError(
            "E-M07",
            "weights that are not finite",
            where=WEIGHTS,
            count=len(bad),
            total=len(tensors),
            examples=bad,
            why="every call would be meaningless",
            fix="train the model again",
        )


def _table(columns: Mapping[str, Sequence[object]], delimiter: str) -> bytes:
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    # A carriage return is a line end to readers unless it is quoted, which csv does not see to.
    tricky = any("\r" in str(cell) for row in rows for cell in row)
    text = io.StringIO()
    quoting: Literal[0, 1] = csv.QUOTE_ALL if tricky else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue().encode()


def _columns(data: bytes, delimiter: str, where: str) -> dict[str, tuple[str, ...]]:
    try:
        text = io.StringIO(data.decode(), newline="")
        rows = [r for r in csv.reader(text, delimiter=delimiter) if r]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_table(where, str(error)) from error
    header = rows[0] if rows else []
    if any(len(r) != len(header) for r in rows):
        raise _no_table(where, "its rows differ in length")
    return {name: tuple(r[i] for r in rows[1:]) for i, name in enumerate(header)}


def _numbers(columns: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    try:
        return {name: [float(x) for x in values] for name, values in columns.items()}
    except ValueError as error:
        raise _no_table(HISTORY, str(error)) from error


def _no_table(where: str, why: str) -> ModelFileError:
    return ModelFileError(
        "E-M04", "the file is no table", where=where, why=why[:200], fix="copy the folder again"
    )
