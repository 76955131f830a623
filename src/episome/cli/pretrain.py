"""``episome pretrain``: train an encoder on cells without labels."""

from __future__ import annotations

import inspect
from typing import Any

import click

from episome.cli import train
from episome.cli._command import Outcome, examples, run_command
from episome.errors import UsageError

__all__ = ["command"]

#: What options of `episome train` are where there are no labels, comparisons or modalities.
_UNSET: dict[str, Any] = {
    **dict.fromkeys(("labels_key", "ontology_term_key", "own_terms", "labels_file", "markers")),
    **dict.fromkeys(("refit", "augment", "sampling", "models", "obsm_key")),
    **dict.fromkeys(("rna_modality", "target_modality", "target_layer")),
    "unlabeled": "error",
    "n_models": 1,
    "time_budget": 600.0,
}


@click.pass_context
def _command(ctx: click.Context, /, **options: Any) -> None:
    """Train the encoder METHOD on INPUT, cells without labels, and save a model folder.

    METHOD is an encoder that `episome plugins` lists with the capability pretraining. Other models
    start from the folder: `episome train METHOD few.h5ad --set init=FOLDER`, where they can.
    """
    run_command(ctx, "pretrain", lambda: _pretrain(ctx, options))


def _pretrain(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome import plugins

    spec = plugins.get_spec(options["method"])
    if "pretraining" not in spec.capabilities or "annotation" in spec.capabilities:
        able = {
            name
            for name, s in plugins.models().items()
            if "pretraining" in s.capabilities and "annotation" not in s.capabilities
        }
        raise UsageError(
            "E-U12",
            f"{spec.name} is no encoder that is pretrained by itself",
            why="its pretraining ends in training with labels: model.pretrain(), model.train()"
            if "annotation" in spec.capabilities
            else f"its capabilities are {', '.join(spec.capabilities)}",
            fix=f"one of {', '.join(sorted(able))}" if able else "install a plugin with one",
        )
    return train.train_command(ctx, {**_UNSET, **options}, verb="pretrain")


command = click.Command(
    "pretrain",
    callback=_command,
    params=[p for p in train.command.params if p.name not in _UNSET],
    help=inspect.cleandoc(_command.__doc__ or ""),
    epilog=examples(
        "episome pretrain ssl many_cells.h5ad -o encoder",
        "episome pretrain ssl atlas.corpus -o encoder --donor-key donor_id --max-epochs 20",
    ),
)
