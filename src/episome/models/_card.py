"""The one card of a model: what its manifest knows, and what only people can say.

Saving writes it with what the run knows; `episome models card` writes it anew with what people
say, the scores of an evaluation and the seal of the folder.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import yaml

from episome.data import shown_organism
from episome.errors import PluginError

#: Lines around the front matter.
FENCE = "---\n"
_SHOWN_GENES = 3
_NOT_SAID = "Not stated."
_NOT_KNOWN = "not recorded"
#: Facts of a training that have a line of their own.
_TOLD = frozenset({"n_cells", "seconds", "peak_memory", "device", "seed"})


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


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is written from.

    Parameters
    ----------
    manifest
        Of the folder, or what will be it.
    genes, labels
        Columns of the gene table and of the class table.
    members
        Manifests of the models of an ensemble.
    evaluation
        Of `episome evaluate`; ``None`` where nothing was evaluated.
    seal
        SHA-256 of the manifest; empty before it is written.
    """

    manifest: Mapping[str, Any]
    genes: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[str]]
    members: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] | None = None
    seal: str = ""


def card_text(facts: CardFacts, said: CardStatements | None = None) -> str:
    """Return the card: front matter that the Hugging Face hub reads, and Markdown.

    The digest of the text is in the front matter, so that a card that people wrote or changed is
    told from one that may be written anew.

    Parameters
    ----------
    facts
        What is known.
    said
        What people say; nothing by default.
    """
    said = said or CardStatements()
    body = "\n" + _body(facts, said)
    front = _front_matter(facts, said)
    front["episome"]["text_sha256"] = hashlib.sha256(body.encode()).hexdigest()
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    return f"{FENCE}{text}{FENCE}{body}"


def _title(facts: CardFacts) -> str:
    return f"{facts.manifest['model']['class']} of episome"


def _front_matter(facts: CardFacts, said: CardStatements) -> dict[str, Any]:
    spec, scores = str(facts.manifest["model"].get("spec") or ""), facts.evaluation
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
        front["model-index"] = [{"name": _title(facts), "results": [results]}]
    kept = {f.name: getattr(said, f.name) for f in fields(said) if f.name != "license"}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items() if v}
    front["episome"] = {"manifest_sha256": facts.seal, **plain}
    return front


def _numbers(scores: Mapping[str, Any] | None) -> dict[str, float]:
    if scores is None:
        return {}
    return {k: v for k, v in scores["scores"].items() if v is not None}


def _body(facts: CardFacts, said: CardStatements) -> str:
    manifest = facts.manifest
    parts = [f"# {_title(facts)}", "", _summary(facts)]
    sections: dict[str, Sequence[str]] = {
        "Intended use": [said.intended_use or _NOT_SAID],
        "Limits": [said.limits or _NOT_SAID],
        "Training data": _training(facts, said),
        "Input": _input(facts),
        "Classes": _classes(facts),
        **({"Members": _members(facts.members)} if facts.members else {}),
        "Evaluation": _evaluation(said, facts.evaluation),
        "Confidence": _confidence(manifest),
        "Cost": _cost(manifest),
        "Provenance": _provenance(facts),
        "Licence": [f"- Weights: {said.license or _NOT_SAID}", f"- Training data: "
                    f"{said.data_license or _NOT_SAID}"],
        "How to cite": [said.citation or _reference(manifest) or _NOT_SAID],
    }  # fmt: skip
    for name, lines in sections.items():
        parts += ["", f"## {name}", "", *lines]
    return "\n".join(parts) + "\n"


def _spec(manifest: Mapping[str, Any]) -> Any:
    from episome.inference import folder_spec

    try:
        return folder_spec(manifest["model"])
    except PluginError:  # the card of a model whose plugin is not here says less
        return None


def _summary(facts: CardFacts) -> str:
    spec = _spec(facts.manifest)
    text = spec.summary if spec else "A model of episome"
    n = len(facts.members)
    return f"{text}; the mean of {n} models under `members/`." if n else f"{text}."


def _reference(manifest: Mapping[str, Any]) -> str:
    spec = _spec(manifest)
    return "" if spec is None else str(spec.reference or "")


def _known(value: object) -> str:
    return str(value) if value not in (None, "", (), []) else _NOT_KNOWN


def _training(facts: CardFacts, said: CardStatements) -> list[str]:
    first = facts.members[0] if facts.members else facts.manifest
    fit, ontology = first.get("fit", {}), facts.manifest.get("ontology") or {}
    organisms = facts.manifest.get("organisms") or first.get("organisms") or ()
    named = [shown_organism(n) for n in organisms]
    donors = facts.manifest.get("confidence", {}).get("n_donors")
    lines = [
        said.training_data or _NOT_SAID,
        "",
        f"- {_trained_on(fit, first)}",
        f"- Donors among the calibration cells: {_known(donors or None)}",
        f"- Species: {_safe(', '.join(named)) or _NOT_KNOWN}",
        f"- Tissues: {_safe(', '.join(said.tissues)) or _NOT_KNOWN}",
        f"- Assays: {_safe(', '.join(said.assays)) or _NOT_KNOWN}",
        f"- Labels: {_known(ontology.get('name'))}, release {_known(ontology.get('release'))}",
    ]
    if "auto" in fit:
        lines.append(f"- Chosen: {_safe(str(fit['auto']['reason']))}")
    shown = {k: v for k, v in fit.items() if isinstance(v, str | int | float | bool)}
    lines += [
        f"- {k.replace('_', ' ')}: {_safe(str(v))}" for k, v in shown.items() if k not in _TOLD
    ]
    return lines


def _trained_on(fit: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Return how many cells trained a model, and of how many that it was given."""
    if "n_cells" not in fit:
        return f"Cells: {_NOT_KNOWN}"
    registry = manifest.get("registry") or {}
    given = registry.get("field_registries", {}).get("X", {}).get("summary_stats", {})
    n = given.get("n_cells")
    of = "" if n is None else f" of {n:,}"
    return f"Trained on {fit['n_cells']:,}{of} cells"


def _members(members: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = ["| member | model | seed | cells | validation macro F1 |", "|---|---|---|---|---|"]
    for i, manifest in enumerate(members):
        fit = manifest.get("fit", {})
        f1 = fit.get("validation_f1_macro")
        shown = f"{f1:.3f}" if isinstance(f1, float) else ""
        name = _safe(str(manifest["model"]["class"]))
        rows.append(
            f"| {i} | {name} | {fit.get('seed', '')} | {fit.get('n_cells', '')} | {shown} |"
        )
    return rows


def _input(facts: CardFacts) -> list[str]:
    rule, ids = facts.manifest["input"], facts.genes["id"]
    shown = ", ".join(ids[:_SHOWN_GENES])
    if key := rule.get("obsm_key"):
        return [f"- Values: vectors of {len(ids):,} dimensions, obsm[{_safe(repr(key))}]"]
    return [
        f"- Values: {rule['input_kind']}, library size over "
        f"{str(rule['size_factor']).replace('_', ' ')}, scaled to {rule['target_sum']:g}",
        f"- Features: {len(ids):,}, such as {_safe(shown)}",
        f"- SHA-256 of their list: `{facts.manifest['genes_sha256']}`",
    ]


def _classes(facts: CardFacts) -> list[str]:
    manifest = facts.manifest
    names = facts.labels.get("label", ())
    if not names:
        return ["The model does not annotate cells."]
    terms = facts.labels.get("ontology_term_id", ("",) * len(names))
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
    after, before = facts["after"], facts["before"]
    lines = [
        f"- Calibrated ({facts['map']}) on {facts['n_cells']:,} cells ({facts['source']})",
        f"- Expected calibration error {after['ece']:.3f} (before {before['ece']:.3f}), negative "
        f"log-likelihood {after['nll']:.3f} ({before['nll']:.3f}), accuracy "
        f"{after['accuracy']:.3f} on them",
    ]
    for rate, found in facts.get("coverage", {}).items():
        line = (
            f"- Label sets of error rate {rate} hold the truth of {found['overall']:.1%} "
            f"({found['size']:.2f} classes a set)"
        )
        least = [share for share, _ in found["by_donor"].values() if share is not None]
        if len(least) > 1:
            line += f"; of {len(least)} donors, {min(least):.1%} in the worst"
        lines.append(line)
    return lines


def _cost(manifest: Mapping[str, Any]) -> list[str]:
    fit = manifest.get("fit", {})
    return [
        f"- Seconds of training: {_known(fit.get('seconds'))}",
        f"- Peak memory: {_known(fit.get('peak_memory'))}",
        f"- Device: {_known(fit.get('device'))}",
    ]


def _provenance(facts: CardFacts) -> list[str]:
    manifest = facts.manifest
    made, model = manifest["provenance"], manifest["model"]
    versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items() if v)
    lines = [
        f"- Made {made['created']} with seed {made['seed']} on Python {made['python']}, "
        f"{made['platform']}",
        f"- {_known(model.get('distribution'))} {_known(model.get('version'))}; {versions}",
    ]
    if facts.seal:
        lines.append(f"- SHA-256 of manifest.json: `{facts.seal}`")
    for name, entry in manifest.get("files", {}).items():
        lines.append(f"- SHA-256 of {name}: `{entry['sha256']}`")
    for member in manifest.get("members", ()):
        lines.append(f"- SHA-256 of {member['path']}/manifest.json: `{member['manifest_sha256']}`")
    return lines


def _share(value: float | None) -> str:
    return _NOT_KNOWN if value is None else f"{value:.3f}"


def _safe(text: str) -> str:
    """Return text that Markdown and tables show as it is."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
