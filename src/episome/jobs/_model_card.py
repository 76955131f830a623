"""The model card of a folder: what its manifest knows, and what only people can say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from episome.errors import InputFileError, ModelFileError, Problem, UsageError
from episome.io import EVALUATION, card_file, find_model, read_manifest, write_file
from episome.jobs._asked import weights_digest
from episome.jobs._models import whole_folder
from episome.models import CardFacts, CardStatements, card_text

if TYPE_CHECKING:
    from episome.io import ModelFolder

#: What a card is not complete without, and the option that says it.
REQUIRED = {
    "license": "--license",
    "training_data": "--training-data",
    "intended_use": "--intended-use",
    "limits": "--limits",
    "metrics": "--evaluation (of `episome evaluate -o scores.json`), or --metric",
    "data_digest": "--evaluation, or --tested-on",
}
_FENCE = "---\n"


def write_model_card(
    model: str | Path,
    statements: CardStatements,
    *,
    evaluation: Path | None = None,
    overwrite: bool = False,
) -> tuple[Path, list[str]]:
    """Write the card of a model folder anew; what people said before stays.

    The card is ``README.md``: front matter that the Hugging Face hub reads, and text from the
    manifest. It is outside the seal of the folder, and so is ``evaluation.json``.

    Parameters
    ----------
    model
        Path, or name of a model in the cache.
    statements
        What is to be said; what is empty stays as it was.
    evaluation
        JSON file of `episome evaluate` of this model.
    overwrite
        Replace a card whose text was changed by hand.

    Returns
    -------
    The card, and what is still missing, as :func:`missing_of_card`.

    Raises
    ------
    ModelFileError, UntrustedModelError
        As ``episome.io.read_model_folder``; the evaluation is of another model (E-M22).
    UsageError
        The evaluation is none (E-U117).
    InputFileError
        The text of the card was changed by hand (E-F26).
    """
    path = find_model(model)
    folder, manifest, _ = whole_folder(path)
    if not overwrite:
        _require_own_text(path)
    if evaluation is not None:
        found = _read_evaluation(evaluation, manifest)
        write_file(path / EVALUATION, json.dumps(found, indent=1).encode(), overwrite=True)
    said = card_statements(path).merged(statements)
    facts = _card_facts(path, folder, manifest, _kept_evaluation(path, manifest))
    text = card_text(facts, said)
    write_file(card_file(path), text.encode(), overwrite=True)
    return card_file(path), missing_of_card(path)


def card_statements(path: Path) -> CardStatements:
    """Return what people said in the card of a folder; empty where there is none of ours."""
    front = _front(path)
    own = front.get("episome") or {}
    known = {f.name for f in fields(CardStatements)} - {"license"}
    said: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in own.items() if k in known
    }
    return CardStatements(license=str(front.get("license") or ""), **said)


def missing_of_card(model: str | Path) -> list[str]:
    """Return what the card of a model lacks before others should use it, keys of ``REQUIRED``.

    A card of another state of the folder lacks everything: ``"card"``.

    Parameters
    ----------
    model
        Path, or name of a model in the cache.
    """
    path = find_model(model)
    manifest = read_manifest(path)
    front = _front(path)
    if (front.get("episome") or {}).get("manifest_sha256") != _seal(path):
        return ["card"]
    said, found = card_statements(path), _kept_evaluation(path, manifest)
    has = {name: bool(getattr(said, name)) for name in REQUIRED}
    if found is not None:
        has["metrics"] = has["metrics"] or bool(found["scores"])
        has["data_digest"] = has["data_digest"] or bool(found["data"].get("sha256"))
    return [name for name in REQUIRED if not has[name]]


def require_complete_card(model: str | Path) -> None:
    """Refuse a model whose card lacks something.

    Raises
    ------
    ModelFileError
        E-M21, naming what is missing.
    """
    missing = missing_of_card(model)
    if not missing:
        return
    if missing == ["card"]:
        fix = f"episome models card {model}"
        problem = Problem(
            "E-M21", "the model has no card of its own", where=str(model), fix=fix,
            why="its README.md was not written for these weights",
        )  # fmt: skip
    else:
        problem = Problem(
            "E-M21",
            "the model card is not complete",
            where=str(model),
            count=len(missing),
            total=len(REQUIRED),
            examples=missing,
            why="others cannot know what the model is good for",
            fix=f"episome models card {model} with {'; '.join(REQUIRED[m] for m in missing)}",
        )
    raise ModelFileError(problem)


# --- the parts of a card --------------------------------------------------------------------


def _front(path: Path) -> dict[str, Any]:
    """Return the front matter of the card of a folder; empty where there is none."""
    file = card_file(path)
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    if not text.startswith(_FENCE) or _FENCE not in text[len(_FENCE) :]:
        return {}
    try:
        found = yaml.safe_load(text[len(_FENCE) :].split(f"\n{_FENCE}", 1)[0])
    except yaml.YAMLError as error:
        raise UsageError(
            "E-U118",
            "the front matter of the card cannot be read",
            where=str(file),
            why=str(error).splitlines()[0],
            fix="mend it, or remove the file and write the card again",
        ) from error
    return found if isinstance(found, dict) else {}


def _require_own_text(path: Path) -> None:
    """Refuse to replace a card that somebody wrote or changed: only what is generated is."""
    file = card_file(path)
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    own = _front(path).get("episome") or {}
    body = text.split(f"\n{_FENCE}", 1)[-1] if own else text
    of_save = body.startswith("# Ensemble of ") or "\nMade with episome " in body
    if not text or (own.get("text_sha256") == _digest(body) if own else of_save):
        return
    raise InputFileError(
        "E-F26",
        "the text of the card was changed by hand",
        where=str(file),
        why="it would be written anew",
        fix="pass overwrite=True (--overwrite), or edit the front matter instead",
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _seal(path: Path) -> str:
    return (path / "manifest.sha256").read_text(encoding="utf-8").split()[0]


def _read_evaluation(file: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        _ = found["scores"], found["classes"], found["data"]["name"]
        digest = found["provenance"]["model_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "E-U117",
            "the file holds no evaluation",
            where=str(file),
            why=f"{type(error).__name__}: {error}",
            fix="pass what `episome evaluate ... -o scores.json` wrote",
        ) from error
    if digest != weights_digest(dict(manifest)):
        raise ModelFileError(
            "E-M22",
            "the evaluation is of another model",
            where=str(file),
            why="its digest of the weights is not that of the folder",
            fix="evaluate this model: `episome evaluate ... -m FOLDER -o scores.json`",
        )
    kept: dict[str, Any] = found
    return kept


def _kept_evaluation(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    file = path / EVALUATION
    return _read_evaluation(file, manifest) if file.is_file() else None


def _card_facts(
    path: Path,
    folder: ModelFolder,
    manifest: Mapping[str, Any],
    scores: Mapping[str, Any] | None,
) -> CardFacts:
    """Return what the card of a folder is written from."""
    members = [read_manifest(path / str(entry["path"])) for entry in manifest.get("members", ())]
    return CardFacts(manifest, folder.genes, folder.labels, members, scores, _seal(path))
