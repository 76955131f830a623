"""The model card of a folder: what its manifest knows, and what only people can say."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from episome.data import shown_organism
from episome.errors import InputFileError, ModelFileError, PluginError, Problem, UsageError
from episome.io import EVALUATION, card_file, find_model, read_manifest, write_file
from episome.jobs._asked import weights_digest
from episome.jobs._models import whole_folder

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
_SHOWN_GENES = 3
_NOT_SAID = "Not stated."
_NOT_KNOWN = "not recorded"


@dataclass(frozen=True, slots=True)
class CardStatements:
    """What people say about a model; the rest of its card is from the folder.

    Parameters
    ----------
    license
        Identifier of the licence of the weights, such as ``"bsd-3-clause"``.
    training_data
        What the model was trained on: where the data are from, and who may use them.
    intended_use, limits
        What it is for, and what it is not for.
    data_license
        Licence of the training data.
    tissues, assays
        Of the training cells.
    citation
        How to cite the model.
    metrics
        Scores by name, for models that `episome evaluate` does not score.
    data_digest
        SHA-256 of the data that ``metrics`` are of.
    """

    license: str = ""
    training_data: str = ""
    intended_use: str = ""
    limits: str = ""
    data_license: str = ""
    tissues: tuple[str, ...] = ()
    assays: tuple[str, ...] = ()
    citation: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    data_digest: str = ""

    def merged(self, other: CardStatements) -> CardStatements:
        """Return these with those of another in place of what it says."""
        said = {f.name: getattr(other, f.name) for f in fields(other) if getattr(other, f.name)}
        return replace(self, **said)


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
    text = _card(path, folder, manifest, said, _kept_evaluation(path, manifest))
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


def _card(
    path: Path,
    folder: ModelFolder,
    manifest: Mapping[str, Any],
    said: CardStatements,
    scores: Mapping[str, Any] | None,
) -> str:
    title = f"{manifest['model']['class']} of episome"
    parts = [f"# {title}", "", _summary(manifest)]
    sections: dict[str, Sequence[str]] = {
        "Intended use": [said.intended_use or _NOT_SAID],
        "Limits": [said.limits or _NOT_SAID],
        "Training data": _training(folder, manifest, said),
        "Input": _input(folder, manifest),
        "Classes": _classes(folder, manifest),
        "Evaluation": _evaluation(said, scores),
        "Confidence": _confidence(manifest),
        "Cost": _cost(manifest),
        "Provenance": _provenance(path, manifest),
        "Licence": [f"- Weights: {said.license or _NOT_SAID}", f"- Training data: "
                    f"{said.data_license or _NOT_SAID}"],
        "How to cite": [said.citation or _reference(manifest) or _NOT_SAID],
    }  # fmt: skip
    for name, lines in sections.items():
        parts += ["", f"## {name}", "", *lines]
    body = "\n" + "\n".join(parts) + "\n"
    front = _front_matter(path, title, manifest, said, scores)
    front["episome"]["text_sha256"] = _digest(body)
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    return f"{_FENCE}{text}{_FENCE}{body}"


def _front_matter(
    path: Path,
    title: str,
    manifest: Mapping[str, Any],
    said: CardStatements,
    scores: Mapping[str, Any] | None,
) -> dict[str, Any]:
    spec = str(manifest["model"].get("spec") or "")
    front: dict[str, Any] = {"license": said.license} if said.license else {}
    front |= {
        "library_name": "episome",
        "tags": [t for t in ("episome", "biology", "single-cell", spec) if t],
    }
    numbers = dict(said.metrics) or _numbers(scores)
    if numbers:
        name = said.data_digest if scores is None else str(scores["data"]["name"])
        front["metrics"] = sorted(numbers)
        results = {
            "task": {"type": "cell-type-annotation"},
            "dataset": {"name": name, "type": "anndata"},
            "metrics": [{"type": k, "value": round(v, 6)} for k, v in sorted(numbers.items())],
        }
        front["model-index"] = [{"name": title, "results": [results]}]
    kept = {f.name: getattr(said, f.name) for f in fields(said) if f.name != "license"}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items() if v}
    front["episome"] = {"manifest_sha256": _seal(path), **plain}
    return front


def _numbers(scores: Mapping[str, Any] | None) -> dict[str, float]:
    if scores is None:
        return {}
    return {k: v for k, v in scores["scores"].items() if v is not None}


def _spec(manifest: Mapping[str, Any]) -> Any:
    from episome.inference import folder_spec

    try:
        return folder_spec(manifest["model"])
    except PluginError:  # the card of a model whose plugin is not here says less
        return None


def _summary(manifest: Mapping[str, Any]) -> str:
    spec, n = _spec(manifest), len(manifest.get("members", ()))
    text = spec.summary if spec else "A model of episome"
    return f"{text}; the mean of {n} models." if n else f"{text}."


def _reference(manifest: Mapping[str, Any]) -> str:
    spec = _spec(manifest)
    return "" if spec is None else str(spec.reference or "")


def _known(value: object) -> str:
    return str(value) if value not in (None, "", (), []) else _NOT_KNOWN


def _training(folder: ModelFolder, manifest: Mapping[str, Any], said: CardStatements) -> list[str]:
    fit = folder.manifest.get("fit", {})
    named = [shown_organism(n) for n in folder.manifest.get("organisms", ())]
    ontology = manifest.get("ontology") or {}
    donors = manifest.get("confidence", {}).get("n_donors")
    return [
        said.training_data or _NOT_SAID,
        "",
        f"- Cells: {_known(fit.get('n_cells'))}",
        f"- Donors among the calibration cells: {_known(donors or None)}",
        f"- Species: {_safe(', '.join(named)) or _NOT_KNOWN}",
        f"- Tissues: {_safe(', '.join(said.tissues)) or _NOT_KNOWN}",
        f"- Assays: {_safe(', '.join(said.assays)) or _NOT_KNOWN}",
        f"- Labels: {_known(ontology.get('name'))}, release {_known(ontology.get('release'))}",
    ]


def _input(folder: ModelFolder, manifest: Mapping[str, Any]) -> list[str]:
    rule, ids = manifest["input"], folder.genes["id"]
    shown = ", ".join(ids[:_SHOWN_GENES])
    return [
        f"- Values: {rule['input_kind']}, library size over "
        f"{str(rule['size_factor']).replace('_', ' ')}, scaled to {rule['target_sum']:g}",
        f"- Features: {len(ids):,}, such as {_safe(shown)}",
        f"- SHA-256 of their list: `{manifest['genes_sha256']}`",
    ]


def _classes(folder: ModelFolder, manifest: Mapping[str, Any]) -> list[str]:
    names = folder.labels.get("label", ())
    if not names:
        return ["The model does not annotate cells."]
    terms = folder.labels.get("ontology_term_id", ("",) * len(names))
    recall = manifest.get("confidence", {}).get("recall") or [[None, None]] * len(names)
    rows = ["| class | term | calibration cells | called rightly |", "|---|---|---|---|"]
    for name, term, (share, n) in zip(names, terms, recall, strict=True):
        rows.append(f"| {_safe(name)} | {term} | {_known(n)} | {_share(share)} |")
    return rows


def _evaluation(said: CardStatements, scores: Mapping[str, Any] | None) -> list[str]:
    stated = [f"- {_safe(k)}: {v:.4g}" for k, v in said.metrics.items()]
    if said.data_digest:
        stated.append(f"- On data of SHA-256 `{said.data_digest}`")
    if scores is None:
        return stated or [_NOT_SAID]
    data, n = scores["data"], scores["n_scored"]
    digest = data.get("sha256", _NOT_KNOWN)
    on = f"On {n:,} labelled cells of {_safe(data['name'])} (SHA-256 `{digest}`):"
    lines = [*stated, on, ""]
    for name, value in scores["scores"].items():
        ends = scores["intervals"].get(name)
        span = "" if ends is None else f" ({_share(ends['low'])} to {_share(ends['high'])})"
        lines.append(f"- {name}: {_share(value)}{span}")
    lines += [
        f"- Expected calibration error: {_share(scores['calibration'].get('ece'))}",
        f"- Novelty tells {scores['novelty']['n_unseen']:,} cells of unknown types: AUROC "
        f"{_share(scores['novelty']['auroc'])}",
        f"- Donors that training had too: {_overlap(scores.get('shared_donors'))}; identical "
        "cells: not checked",
        "",
        "| class | cells | precision | recall | F1 | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in scores["classes"]:
        cells = [_share(row[k]) for k in ("precision", "recall", "f1")]
        lines.append(
            f"| {_safe(str(row['class']))} | {row['n_true']:,} | {' | '.join(cells)} | "
            f"{_share(row['f1_low'])} to {_share(row['f1_high'])} |"
        )
    return lines


def _overlap(donors: Sequence[str] | None) -> str:
    return _NOT_KNOWN if donors is None else f"{len(donors):,}"


def _confidence(manifest: Mapping[str, Any]) -> list[str]:
    facts = manifest.get("confidence", {})
    if not facts.get("calibrated"):
        return ["Confidence is what the model says itself; it is not calibrated."]
    after = facts["after"]
    lines = [
        f"- Calibrated ({facts['map']}) on {facts['n_cells']:,} cells ({facts['source']})",
        f"- Expected calibration error {after['ece']:.3f}, negative log-likelihood "
        f"{after['nll']:.3f}, accuracy {after['accuracy']:.3f} on them",
    ]
    for rate, found in facts.get("coverage", {}).items():
        lines.append(
            f"- Label sets of error rate {rate} hold the truth of {found['overall']:.1%} "
            f"({found['size']:.2f} classes a set)"
        )
    return lines


def _cost(manifest: Mapping[str, Any]) -> list[str]:
    fit = manifest.get("fit", {})
    return [
        f"- Seconds of training: {_known(fit.get('seconds'))}",
        f"- Peak memory: {_known(fit.get('peak_memory'))}",
        f"- Device: {_known(fit.get('device'))}",
    ]


def _provenance(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    made, model = manifest["provenance"], manifest["model"]
    versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items() if v)
    lines = [
        f"- Trained {made['created']} with seed {made['seed']} on Python {made['python']}, "
        f"{made['platform']}",
        f"- {_known(model.get('distribution'))} {_known(model.get('version'))}; {versions}",
        f"- SHA-256 of manifest.json: `{_seal(path)}`",
    ]
    for name, entry in manifest["files"].items():
        lines.append(f"- SHA-256 of {name}: `{entry['sha256']}`")
    for member in manifest.get("members", ()):
        lines.append(f"- SHA-256 of {member['path']}/manifest.json: `{member['manifest_sha256']}`")
    return lines


def _share(value: float | None) -> str:
    return _NOT_KNOWN if value is None else f"{value:.3f}"


def _safe(text: str) -> str:
    """Return text that Markdown and tables show as it is."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
