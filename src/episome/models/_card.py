"""The model card that a folder carries, from the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from episome.models._base import EpisomeModel


def model_card(model: EpisomeModel, manifest: Mapping[str, Any]) -> str:
    """Return a model card in Markdown: only what the run knows."""
    spec, labels = type(model).spec(), model.labels
    rule = model.input_rule
    lines = [
        f"# {type(model).__name__}",
        "",
        spec.summary if spec else "A model of episome.",
        "",
        f"- Input: {rule.input_kind}, {len(model.features):,} genes "
        f"(e.g. {', '.join(model.features.ids[:3])}), library size over "
        f"{rule.size_factor.replace('_', ' ')}, scaled to {rule.target_sum:g}.",
        f"- Trained on {model.fit_['n_cells']:,} of {model.summary_stats.n_cells:,} cells.",
    ]
    if labels is not None:
        lines.append(f"- {len(labels)} classes: {', '.join(labels.names[:40])}.")
        lines.append("- Confidence is the softmax probability and is not calibrated.")
    lines += [f"- {k.replace('_', ' ')}: {v}" for k, v in _shown(manifest["fit"]).items()]
    if spec is not None and spec.reference:
        lines += ["", f"Reference: {spec.reference}"]
    versions = manifest["provenance"]["versions"]
    lines += ["", "Made with " + ", ".join(f"{k} {v}" for k, v in versions.items() if v) + ".", ""]
    return "\n".join(lines)


def _shown(fit: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in fit.items() if isinstance(v, str | int | float | bool)}
