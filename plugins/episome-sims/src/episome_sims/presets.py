"""Sizes and training settings of SIMS by the size of the reference."""

from __future__ import annotations

from episome.errors import UsageError
from episome.train import small_reference_dropout, small_reference_training

# Gonzalez-Ferrer et al. (2024): the defaults of the published code.
PUBLISHED: dict[str, object] = {
    "n_d": 8,
    "n_a": 8,
    "n_steps": 3,
    "n_shared": 2,
    "n_independent": 2,
    "virtual_batch_size": 128,
    "gamma": 1.3,
    "momentum": 0.02,
    "mask": "sparsemax",
    "lambda_sparse": 1e-3,
    "dropout": 0.0,
    "embedding_dropout": 0.0,
    "input_eps": 1e-5,
    "mask_scale": 1.0,
    "n_top_genes": None,
}
#: Widths n_d and n_a of the published presets.
WIDTHS: dict[str, int] = {"tall": 8, "grande": 32, "venti": 64, "trenta": 128}
# Not of the paper. The shape is that of broad masks, few layers and strong dropout, which small
# references want; it was compared on a part of the training cells of one real set (Kang blood, two
# donors of the training part held out, two seeds), where a weaker dropout of the embedding helped,
# and one step, z-scores, fewer or more epochs and a weaker sparsity term did not. Test cells chose
# nothing.
SMALL: dict[str, object] = {
    **PUBLISHED,
    "n_d": 64,
    "n_a": 8,
    "n_shared": 1,
    "n_independent": 1,
    "virtual_batch_size": 64,
    "momentum": 0.1,
    "dropout": 0.7,
    "embedding_dropout": 0.2,
    "input_eps": 1.0,
    "mask_scale": 0.1,
}
SMALL_BELOW, VENTI_FROM = 20_000, 100_000
# Sparsemax masks are narrow: where most values of a panel are not zero, dropout of many genes
# leaves them little to choose from. On 600 simulated deep cells of 500 genes a dropout of 0.7 gave
# a macro F1 of 0.39, one of 0.3 gave 0.995.
GENES_TO_KEEP = 350
DROPOUT_OF_MANY = 0.85


def values_for(preset: str, n_cells: int, n_genes: int) -> tuple[str, dict[str, object]]:
    """Return the name and the sizes of a preset.

    Raises
    ------
    UsageError
        There is no such preset (E-U23).
    """
    if preset == "auto":
        large = "grande" if n_cells < VENTI_FROM else "venti"
        preset = "small" if n_cells < SMALL_BELOW else large
    if preset in WIDTHS:
        return preset, {**PUBLISHED, "n_d": WIDTHS[preset], "n_a": WIDTHS[preset]}
    if preset != "small":
        names = ", ".join(f'"{name}"' for name in ("auto", "small", *WIDTHS))
        raise UsageError("E-U23", f"preset={preset!r}", fix=f"use one of {names}, and set sizes")
    dropout = small_reference_dropout(
        n_genes,
        dropout=float(SMALL["dropout"]),
        dropout_of_many=DROPOUT_OF_MANY,
        genes_to_keep=GENES_TO_KEEP,
    )
    return preset, {**SMALL, "dropout": dropout}


def training_defaults(preset: str, n_cells: int) -> dict[str, object]:
    """Return the defaults of ``train`` for a preset."""
    if preset in WIDTHS:
        return {
            "max_epochs": 500,
            "batch_size": 256,
            "plan_kwargs": {
                "lr": 1e-2,
                "weight_decay": 0.01,
                "lr_schedule": "plateau",
                "lr_decay": 0.75,
                "lr_patience": 20,
            },
            "early_stopping_patience": 50,
        }
    return small_reference_training(
        n_cells, batch_size=64, lr=1e-2, weight_decay=0.05, weight_average=0.99
    )
