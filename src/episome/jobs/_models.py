"""Model folders on this machine: list, show, verify, remove."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from episome import settings
from episome.errors import EpisomeError, ModelFileError, UsageError
from episome.io import (
    ModelFolder,
    cached_models,
    find_model,
    is_ensemble,
    read_ensemble_folder,
    read_manifest,
    read_model_folder,
)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the manifest of a model folder says.

    Parameters
    ----------
    name
        ``owner/name`` of a model in the cache; else the path.
    path
        The folder.
    model, spec, plugin
        Class of the model, its name, and the plugin that it comes from.
    n_members
        Models of an ensemble; 1 for one model.
    created
        When it was trained, in ISO form.
    n_bytes
        Size of the folder.
    hub
        Where it was pulled from: ``repo``, ``commit``, ``endpoint``; empty for others.
    error
        Why the folder cannot be used; empty where it can.
    """

    name: str
    path: Path
    model: str = ""
    spec: str = ""
    plugin: str = ""
    n_members: int = 1
    created: str = ""
    n_bytes: int = 0
    hub: Mapping[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """All that is known of a model: facts, classes, genes, confidence and the text of its card."""

    facts: ModelFacts
    manifest: Mapping[str, Any]
    labels: Sequence[str]
    term_ids: Sequence[str]
    n_genes: int
    genes: Sequence[str]
    card: str


def models_list(folders: Sequence[Path] = ()) -> list[ModelFacts]:
    """Return the models in the cache, and those in other folders; nothing is read but manifests.

    Parameters
    ----------
    folders
        Each a model folder, or a folder that holds some.

    Raises
    ------
    ModelFileError
        A folder that is named is none (E-M05).
    """
    found = [_facts(name, path) for name, path in cached_models().items()]
    for folder in folders:
        if not folder.is_dir():
            raise ModelFileError(
                "E-M05",
                "there is no such folder",
                where=str(folder),
                fix="pass a model folder, or a folder that holds some",
            )
        one = (folder / "manifest.json").is_file()
        inside = [folder] if one else sorted(p.parent for p in folder.glob("*/manifest.json"))
        found += [_facts(str(p), p) for p in inside]
    return found


def model_details(model: str | Path) -> ModelDetails:
    """Verify a model folder, and return what it says about itself.

    Parameters
    ----------
    model
        Path, or name of a model in the cache.

    Raises
    ------
    ModelFileError, UntrustedModelError
        As ``episome.io.read_model_folder``.
    """
    path = find_model(model)
    first, manifest, card = whole_folder(path)
    return ModelDetails(
        _facts(str(model), path),
        manifest,
        tuple(first.labels.get("label", ())),
        tuple(first.labels.get("ontology_term_id", ())),
        len(first.genes["id"]),
        tuple(first.genes["id"][:5]),
        card,
    )


def whole_folder(path: Path) -> tuple[ModelFolder, Mapping[str, Any], str]:
    """Verify a folder; return the model, or the first member of an ensemble, manifest and card.

    Raises
    ------
    ModelFileError, UntrustedModelError
        As ``episome.io.read_model_folder``.
    """
    if is_ensemble(read_manifest(path)):
        whole = read_ensemble_folder(path)
        return whole.members[0], whole.manifest, whole.card
    folder = read_model_folder(path)
    return folder, folder.manifest, folder.card


def models_verify(model: str | Path) -> list[dict[str, object]]:
    """Compare every byte of a model folder with its checksums.

    Parameters
    ----------
    model
        Path, or name of a model in the cache.

    Returns
    -------
    The files, each with ``path``, ``size`` and ``sha256`` of the manifest.

    Raises
    ------
    ModelFileError, UntrustedModelError
        As ``episome.io.read_model_folder``; E-M03 for a cached model that is not the one that was
        pulled.
    """
    path = find_model(model)
    whole_folder(path)
    manifest = read_manifest(path)
    pulled = record_of(path)
    seal = (path / "manifest.sha256").read_text().split()[0]
    if pulled and pulled.get("manifest_sha256") != seal:
        raise ModelFileError(
            "E-M03",
            "the model is not the one that was pulled",
            where=str(path),
            why="its manifest differs from the checksum that was recorded",
            fix=f"episome models pull {pulled.get('repo')} --overwrite",
        )
    files: list[dict[str, object]] = [{"path": "manifest.json", "sha256": seal}]
    for name, entry in manifest["files"].items():
        files.append({"path": name, **entry})
    for member in manifest.get("members", ()):
        files.append(
            {"path": f"{member['path']}/manifest.json", "sha256": member["manifest_sha256"]}
        )
    return files


def models_remove(name: str) -> int:
    """Remove a model from the cache, and return how many bytes are free again.

    Parameters
    ----------
    name
        ``owner/name``, as ``models_list`` has it.

    Raises
    ------
    UsageError
        There is none of that name in the cache (E-U116); other folders are never removed.
    """
    known = cached_models()
    if name not in known:
        raise UsageError(
            "E-U116",
            f"there is no model {name!r} in the cache",
            examples=list(known),
            why="only what `episome models pull` brought is removed",
            fix="remove a folder of your own yourself"
            if Path(name).is_dir()
            else "see `episome models list`",
        )
    size = folder_size(known[name])
    shutil.rmtree(known[name])
    record_file(known[name]).unlink(missing_ok=True)
    return size


def record_file(folder: Path) -> Path:
    """Return the file that says where a cached model comes from."""
    return folder.with_name(f"{folder.name}.json")


def folder_size(path: Path) -> int:
    """Bytes of the files of a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def record_of(folder: Path) -> dict[str, Any]:
    """Return what was written of a model when it was pulled; empty where nothing was."""
    if folder.parent != settings.cache_folder("models"):
        return {}
    try:
        found = json.loads(record_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or not one of ours
        return {}
    return found if isinstance(found, dict) else {}


def _facts(name: str, path: Path) -> ModelFacts:
    try:
        manifest = read_manifest(path)
    except EpisomeError as error:
        return ModelFacts(name, path, error=str(error))
    members = manifest.get("members", ())
    model = manifest.get("model") or {}
    return ModelFacts(
        name,
        path,
        str(model.get("class") or ""),
        str(model.get("spec") or ""),
        str(model.get("plugin") or ""),
        max(len(members), 1),
        str((manifest.get("provenance") or {}).get("created", "")),
        folder_size(path),
        record_of(path) or None,
    )
