"""The model card that a folder carries, from the facts of the run."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from episome.data import shown_organism

if TYPE_CHECKING:
    from episome.data import Labels
    from episome.models._base import EpisomeModel


def model_card(model: EpisomeModel, manifest: Mapping[str, Any]) -> str:
    """Return a model card in Markdown: only what the run knows."""
    spec, labels = type(model).spec(), model.labels
    lines = [
        f"# {type(model).__name__}",
        "",
        spec.summary if spec else "A model of episome.",
        "",
        _input(model),
        *_organisms(model),
    ]
    if "n_cells" in model.fit_:
        n_cells, known = model.fit_["n_cells"], model.summary_stats.n_cells
        lines.append(f"- Trained on {n_cells:,} of {known:,} cells.")
    if labels is not None:
        lines.append(f"- {len(labels)} classes: {_names(labels)}.")
        known = sum(map(bool, labels.term_ids))
        lines.append(
            f"- {known} classes have a term of the Cell Ontology, release "
            f"{labels.ontology_release or 'not recorded'}."
        )
        lines += _confidence(manifest["confidence"])
    if "auto" in model.fit_:
        lines.append(f"- Chosen: {model.fit_['auto']['reason']}.")
    lines += [f"- {k.replace('_', ' ')}: {v}" for k, v in _shown(manifest["fit"]).items()]
    if spec is not None and spec.reference:
        lines += ["", f"Reference: {spec.reference}"]
    versions = manifest["provenance"]["versions"]
    lines += ["", "Made with " + ", ".join(f"{k} {v}" for k, v in versions.items() if v) + ".", ""]
    return "\n".join(lines)


def _input(model: EpisomeModel) -> str:
    rule, n_features = model.input_rule, len(model.features)
    if rule.obsm_key is not None:
        return f"- Input: vectors of {n_features:,} dimensions, obsm[{rule.obsm_key!r}]."
    return (
        f"- Input: {rule.input_kind}, {n_features:,} genes "
        f"(e.g. {', '.join(model.features.ids[:3])}), library size over "
        f"{rule.size_factor.replace('_', ' ')}, scaled to {rule.target_sum:g}."
    )


def _organisms(model: EpisomeModel) -> list[str]:
    named = [html.escape(shown_organism(n), quote=False) for n in model.input_rule.organisms]
    return [f"- Cells of {', '.join(named)}."] if named else []


def _shown(fit: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in fit.items() if isinstance(v, str | int | float | bool)}


def _confidence(facts: Mapping[str, Any]) -> list[str]:
    """Return what calibration cells say of the model."""
    if not facts.get("calibrated"):
        return ["- Confidence is what the model says itself; it is not calibrated."]
    after, before = facts["after"], facts["before"]
    return [
        f"- Confidence is calibrated ({facts['map']}) on {facts['n_cells']:,} cells "
        f"({facts['source']}): expected calibration error {after['ece']:.3f} (before "
        f"{before['ece']:.3f}), negative log-likelihood {after['nll']:.3f} ({before['nll']:.3f}), "
        f"accuracy {after['accuracy']:.3f}.",
        *_coverage(facts.get("coverage", {})),
    ]


def _coverage(facts: Mapping[str, Any]) -> list[str]:
    """Return how often label sets held the truth, and where least often."""
    lines = []
    for rate, found in facts.items():
        line = (
            f"- Label sets of error rate {rate} held the truth of {found['overall']:.1%} of the "
            f"calibration cells ({found['size']:.2f} classes a set)"
        )
        least = [share for share, _ in found["by_donor"].values() if share is not None]
        if len(least) > 1:
            line += f"; of {len(least)} donors, {min(least):.1%} in the worst"
        lines.append(line + ".")
    return lines


def ensemble_card(
    members: Sequence[Mapping[str, Any]], labels: Labels, confidence: Mapping[str, Any]
) -> str:
    """Return the card of an ensemble from the manifests of its members."""
    names = [str(m["model"]["class"]) for m in members]
    lines = [
        f"# Ensemble of {len(members)} models",
        "",
        f"The mean of the probabilities of {', '.join(sorted(set(names)))} models under "
        "`members/`, each with a card of its own.",
        "",
        f"- {len(labels)} classes: {_names(labels)}.",
        *_confidence(confidence),
        "",
        "| member | model | seed | cells | validation macro F1 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {i} | {name} | {m['fit'].get('seed', '')} | {m['fit'].get('n_cells', '')} | "
        f"{_rounded(m['fit'].get('validation_f1_macro'))} |"
        for i, (name, m) in enumerate(zip(names, members, strict=True))
    ]
    return "\n".join([*lines, ""])


def _rounded(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""


def _names(labels: Labels) -> str:
    """Return the first names; a card is Markdown, which passes markup on to whoever shows it."""
    return ", ".join(html.escape(name, quote=False) for name in labels.names[:40])
