"""``episome pretrain``: train an encoder on cells without labels."""

from __future__ import annotations

import inspect
from typing import Any

import click

from episome.cli import train
from episome.cli._command import Outcome, examples, run_command
from episome.errors import UsageError

__all__ = ["command"]

#: What a plugin says of a model that can be trained on cells without labels.
PRETRAINING = "pretraining"
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

    METHOD is a model that `episome plugins` lists with the capability pretraining. Models start
    from the folder: `episome train METHOD few.h5ad --init FOLDER`, where they can.
    """
    run_command(ctx, "pretrain", lambda: _pretrain(ctx, options), long=True)


def _pretrain(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome import plugins

    spec = plugins.get_spec(options["method"])
    if PRETRAINING not in spec.capabilities:
        able = sorted(n for n, s in plugins.models().items() if PRETRAINING in s.capabilities)
        raise UsageError(
            "E-U12",
            f"{spec.name} is not pretrained without labels",
            why=f"its capabilities are {', '.join(spec.capabilities)}",
            fix=f"one of {', '.join(able)}" if able else "install a plugin with one",
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
