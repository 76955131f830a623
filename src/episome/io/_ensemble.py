"""The folder of an ensemble: ordinary model folders under ``members/``, sealed together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome.errors import ModelFileError
from episome.io._atomic import write_folder
from episome.io._folder import (
    CARD,
    FORMAT_VERSION,
    GENES,
    LABELS,
    MANIFEST,
    SEAL,
    WEIGHTS,
    ModelFolder,
    check_model_output,
    is_ensemble,
    model_files,
    read_manifest,
    read_model_folder,
    read_tensors,
    seal_line,
    tensor_bytes,
)
from episome.io._json import dumps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class EnsembleFolder:
    """The parts of a saved ensemble.

    Parameters
    ----------
    manifest
        Plain data: what is true of the whole.
    members
        Its models, in their order.
    card
        The model card in Markdown; outside the seal.
    tensors
        What belongs to the whole, such as its calibration.
    """

    manifest: Mapping[str, Any]
    members: Sequence[ModelFolder]
    card: str = ""
    tensors: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


def write_ensemble_folder(
    path: str | Path, ensemble: EnsembleFolder, *, overwrite: bool = False
) -> Path:
    """Write an ensemble folder atomically, all members at once.

    Raises
    ------
    ModelFileError
        Members differ in their genes or classes (E-M15), or weights are not finite (E-M07).
    InputFileError, ResourceError
        See ``write_folder``.
    """
    check_model_output(path, overwrite=overwrite)
    files: dict[str, bytes] = {}
    entries = []
    for i, member in enumerate(ensemble.members):
        name = f"{MEMBERS}/{i}"
        parts = model_files(member)
        files |= {f"{name}/{k}": v for k, v in parts.items()}
        entries.append({"path": name, "manifest_sha256": _sha256(parts[MANIFEST])})
    _require_alike([files[f"{e['path']}/{t}"] for t in (GENES, LABELS)] for e in entries)
    manifest = {
        **ensemble.manifest,
        "kind": "ensemble",
        "format_version": list(FORMAT_VERSION),
        "members": entries,
        "files": {},
    }
    if ensemble.tensors:
        own = tensor_bytes(ensemble.tensors)
        files[WEIGHTS] = own
        manifest["files"] = {WEIGHTS: {"sha256": _sha256(own), "size": len(own)}}
    text = dumps(manifest)
    files |= {MANIFEST: text, SEAL: seal_line(text), CARD: ensemble.card.encode()}
    return write_folder(path, files, overwrite=overwrite)


def read_ensemble_folder(path: str | Path) -> EnsembleFolder:
    """Verify and read an ensemble folder.

    Raises
    ------
    ModelFileError, UntrustedModelError
        As ``read_model_folder``, for the whole and for every member; also when it is no ensemble
        (E-M14), when a member is not the one that was saved (E-M03), or when members differ in
        their genes or classes (E-M15).
    """
    path = Path(path)
    manifest = read_manifest(path)
    if not is_ensemble(manifest):
        raise ModelFileError(
            "E-M14", "the folder holds one model, not an ensemble", where=str(path)
        )
    members = [_member(path, i, entry) for i, entry in enumerate(manifest["members"])]
    _require_alike((m.genes, m.labels) for m in members)
    card = path / CARD
    text = card.read_text(errors="replace") if card.is_file() else ""
    tensors: Mapping[str, NDArray[np.generic]] = {}
    if WEIGHTS in manifest["files"]:
        tensors = read_tensors(path, WEIGHTS, manifest["files"][WEIGHTS])
    return EnsembleFolder(manifest, tuple(members), text, tensors)


def _member(path: Path, number: int, entry: Mapping[str, str]) -> ModelFolder:
    # The place follows from the number: no text of a manifest is used as a path.
    folder = path / MEMBERS / str(number)
    if not folder.is_dir() or folder.is_symlink() or folder.parent.is_symlink():
        raise ModelFileError(
            "E-M05",
            "a member of the ensemble is missing",
            where=str(folder),
            fix="copy the folder again",
        )
    member = read_model_folder(folder)
    if _sha256((folder / MANIFEST).read_bytes()) != entry["manifest_sha256"]:
        raise ModelFileError(
            "E-M03",
            "a member is not the one that was saved",
            where=str(folder),
            why="its manifest differs from the ensemble's checksum",
            fix="copy the folder again",
        )
    return member


def _require_alike(members: Any) -> None:
    first, *others = list(members)
    different = [i + 1 for i, other in enumerate(others) if other != first]
    if different:
        raise ModelFileError(
            "E-M15",
            "members of an ensemble differ in their genes or classes",
            where=MEMBERS,
            count=len(different),
            total=len(others) + 1,
            examples=[f"member {i}" for i in different],
            why="their probabilities are of different things",
            fix="train all members on the same genes and classes",
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
