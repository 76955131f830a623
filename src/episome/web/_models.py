"""Models that a user may choose: those that the operator installed, and the user's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from episome import plugins
from episome.errors import EpisomeError
from episome.io import read_manifest
from episome.web._errors import not_found
from episome.web._store import DONE, Store

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Model", "Models"]

#: Characters of a card that are shown.
MOST = 100_000


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder as the page shows it.

    Parameters
    ----------
    id
        In addresses.
    name
        What the user knows it by.
    folder
        Where it is.
    facts
        Plain data for the page and its API.
    """

    id: str
    name: str
    folder: Path
    facts: dict[str, Any]

    @property
    def card(self) -> str:
        """The card that the folder carries, in Markdown."""
        path = self.folder / "README.md"
        if not path.is_file():
            return ""
        with path.open(encoding="utf-8", errors="replace") as handle:
            return handle.read(MOST)


class Models:
    """Finds models by their id.

    Parameters
    ----------
    store
        Jobs of training are looked up here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, int], dict[str, Any]] = {}

    def all(self, owner: str) -> list[Model]:
        """Return the models that a user may choose, the user's own first."""
        own = [self._own(job.id) for job in self._store.jobs(owner, kind="train")]
        installed = [self._model(_id(f), f.name, f) for f in self._folders()]
        return [m for m in (*own, *installed) if m is not None]

    def find(self, owner: str, id_: str) -> Model:
        """Return a model by its id.

        Raises
        ------
        UsageError
            There is none, or it is another user's (E-W04).
        """
        for folder in self._folders():
            if _id(folder) == id_:
                found = self._model(id_, folder.name, folder)
                break
        else:
            self._store.job(owner, id_)
            found = self._own(id_)
        if found is None:
            raise not_found()
        return found

    def _own(self, id_: str) -> Model | None:
        job = self._store.any_job(id_)
        if job is None or job.state != DONE:
            return None
        name = str(job.options.get("name") or "my-model")
        return self._model(id_, name, self._store.job_folder(id_) / "model")

    def _folders(self) -> list[Path]:
        found = []
        for place in (p.resolve() for p in self._store.settings.models):
            if (place / "manifest.json").is_file():
                found.append(place)
            elif place.is_dir():
                found += sorted(p for p in place.iterdir() if (p / "manifest.json").is_file())
        return found

    def _model(self, id_: str, name: str, folder: Path) -> Model | None:
        """Return a model; ``None`` for a folder that is damaged."""
        path = folder / "manifest.json"
        try:
            key = (str(folder), path.stat().st_mtime_ns)
            if key not in self._known:
                self._known[key] = _facts(read_manifest(folder), folder)
        except (EpisomeError, OSError):
            return None
        return Model(id_, name, folder, {"id": id_, "name": name, **self._known[key]})


def _id(folder: Path) -> str:
    """Return the id of an installed model: the same in every session, and no path."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:32]


def _facts(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a user must know to choose a model."""
    fit = manifest.get("fit", {})
    one = (folder / "labels.tsv").is_file()
    place = folder if one else folder / "members" / "0"
    organisms = (manifest if one else read_manifest(place)).get("organisms")
    confidence = manifest.get("confidence") or {}
    return {
        "method": manifest.get("model", {}).get("spec", "ensemble"),
        "classes": _column(place / "labels.tsv", "label"),
        "n_genes": len(_column(place / "genes.tsv", "id")),
        "n_cells": fit.get("n_cells"),
        "macro_f1": fit.get("validation_f1_macro"),
        "calibrated": bool(confidence.get("calibrated")),
        "calibration": _calibration(confidence),
        "explains": _explains(manifest.get("model", {})),
        "organisms": list(organisms or ()),
        "input_kind": (manifest.get("input") or {}).get("input_kind"),
    }


def _explains(model: dict[str, Any]) -> bool:
    """Whether a model can say which genes speak for its calls."""
    try:
        spec = plugins.get_spec(f"{model.get('plugin')}:{model.get('spec')}")
    except EpisomeError:
        return False
    return "explanation" in spec.capabilities


def _calibration(confidence: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the calibration cells of a model said of its confidence."""
    after = confidence.get("after") or {}
    found = after.get("reliability")
    if not found or not confidence.get("calibrated"):
        return None
    rows = zip(found["confidence"], found["accuracy"], found["n_cells"], strict=True)
    bins = [{"confidence": c, "accuracy": a, "n": n} for c, a, n in rows if n]
    return {
        "bins": bins,
        "n": confidence["n_cells"],
        "accuracy": after["accuracy"],
        "ece": after["ece"],
    }


def _column(path: Path, name: str) -> list[str]:
    """Return a column of a table of a model folder."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[0].split("\t") if lines else []
    at = head.index(name) if name in head else 0
    return [line.split("\t")[at] for line in lines[1:]]
